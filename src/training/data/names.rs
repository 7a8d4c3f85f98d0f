//! Many short texts without a piece of memory for each.

/// Texts by their number.
#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Names {
    pub fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    /// Adds all of the others.
    pub fn extend(&mut self, others: &Self) {
        let start = self.text.len();
        self.text.push_str(&others.text);
        self.ends.extend(others.ends.iter().map(|end| start + end));
    }

    pub fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[index]]
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_by_their_number() {
        let (mut first, mut second) = (Names::default(), Names::default());
        for name in ["one", "", "two"] {
            first.push(name);
        }
        for name in ["ä", "four"] {
            second.push(name);
        }
        first.extend(&second);
        assert_eq!(first.len(), 5);
        assert_eq!([0, 1, 2, 3, 4].map(|index| first.get(index)), ["one", "", "two", "ä", "four"]);
    }
}
