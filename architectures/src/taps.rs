//! A look into a network while it runs.

use burn::tensor::Tensor;

type Observer<'a> = dyn FnMut(&str, &[usize], Tensor<2>) -> Tensor<2> + 'a;

/// Shows every named intermediate result of a forward pass to an observer, which may replace it.
///
/// Names are the paths of timm's modules (`layer1.0`), and those by which timm's `feature_info` calls the stages. A list of
/// modules that timm runs one by one (`serial_blocks1`) is called what its last gave; of a module that gives several results,
/// `NAME.0`, `NAME.1`, … are each of them, and NAME is all of an image in one row.
///
/// Networks call these methods once per stem, block and head. Without an observer this costs nothing.
pub struct Taps<'a> {
    observer: Option<Box<Observer<'a>>>,
    /// Whether what holds nothing new is left out.
    only_new: bool,
    /// The name that was shown last.
    last: String,
}

impl<'a> Taps<'a> {
    /// Nobody looks.
    pub fn none() -> Self {
        Self { observer: None, only_new: false, last: String::new() }
    }

    /// `observer` gets the name (`"layer1.0"`, as timm names its modules), the shape with the batch first, and the
    /// values as `[batch, everything else]`; what it returns, in the same shape, is what the network goes on with.
    pub fn observe(observer: impl FnMut(&str, &[usize], Tensor<2>) -> Tensor<2> + 'a) -> Self {
        Self { observer: Some(Box::new(observer)), ..Self::none() }
    }

    /// Without the names of what was shown just before under other names: a stage is what its last block gave.
    pub fn without_repeats(self) -> Self {
        Self { only_new: true, ..self }
    }

    /// Shows `x`, whose first axis is the batch, under a name that is only built if somebody looks.
    pub fn map<const D: usize>(&mut self, name: impl FnOnce() -> String, x: Tensor<D>) -> Tensor<D> {
        self.show(name, false, x)
    }

    /// As [`Self::map`], under one more name than it was shown just before.
    pub fn map_again<const D: usize>(&mut self, name: impl FnOnce() -> String, x: Tensor<D>) -> Tensor<D> {
        self.show(name, true, x)
    }

    /// As [`Self::map`], in another form, which is only made if somebody looks.
    pub fn map_as<const D: usize, const E: usize>(
        &mut self,
        name: impl FnOnce() -> String,
        x: Tensor<D>,
        to: impl FnOnce(Tensor<D>) -> Tensor<E>,
        back: impl FnOnce(Tensor<E>) -> Tensor<D>,
    ) -> Tensor<D> {
        if self.observer.is_some() { back(self.map(name, to(x))) } else { x }
    }

    /// The results of one module: `NAME.0`, `NAME.1`, …, and NAME for all of an image in one row.
    pub fn map_all<const D: usize>(&mut self, name: impl Fn() -> String, results: Vec<Tensor<D>>) -> Vec<Tensor<D>> {
        let each = |(index, x)| self.map(|| format!("{}.{index}", name()), x);
        let results = results.into_iter().enumerate().map(each).collect();
        self.map_together(name, results)
    }

    /// As [`Self::map_all`], of two results that may have different numbers of axes.
    pub fn map_both<const D: usize, const E: usize>(
        &mut self,
        name: impl Fn() -> String,
        first: Tensor<D>,
        second: Tensor<E>,
    ) -> (Tensor<D>, Tensor<E>) {
        let first = self.map(|| format!("{}.0", name()), first);
        let second = self.map(|| format!("{}.1", name()), second);
        if self.observer.is_none() || self.only_new {
            return (first, second);
        }
        let shapes = (first.dims(), second.dims());
        let mut rows = self.map_together(name, vec![rows(first), rows(second)]).into_iter();
        let mut next = || rows.next().expect("two results");
        (next().reshape(shapes.0), next().reshape(shapes.1))
    }

    /// Several results that were shown just before, all of an image in one row under one name.
    pub fn map_together<const D: usize>(
        &mut self,
        name: impl FnOnce() -> String,
        results: Vec<Tensor<D>>,
    ) -> Vec<Tensor<D>> {
        if self.observer.is_none() || self.only_new {
            return results;
        }
        let shapes: Vec<[usize; D]> = results.iter().map(|x| x.dims()).collect();
        let row = self.map_again(name, Tensor::cat(results.into_iter().map(rows).collect(), 1));
        let mut start = 0;
        let part = |shape: [usize; D]| {
            let width: usize = shape[1..].iter().product();
            start += width;
            row.clone().narrow(1, start - width, width).reshape(shape)
        };
        shapes.into_iter().map(part).collect()
    }

    /// Runs blocks one behind the other: `NAME.0`, `NAME.1`, …, and NAME for what the last gave.
    pub fn stage<B, const D: usize>(
        &mut self,
        name: impl Fn() -> String,
        blocks: &[B],
        x: Tensor<D>,
        forward: impl Fn(&B, Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        let run = |x, (index, block)| self.map(|| format!("{}.{index}", name()), forward(block, x));
        let x = blocks.iter().enumerate().fold(x, run);
        self.map_again(name, x)
    }

    fn show<const D: usize>(&mut self, name: impl FnOnce() -> String, again: bool, x: Tensor<D>) -> Tensor<D> {
        let Some(observer) = &mut self.observer else {
            return x;
        };
        let name = name();
        let of_last = || self.last.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'));
        if self.only_new && (again || of_last()) {
            return x;
        }
        let shape = x.dims();
        let x = observer(&name, &shape, rows(x)).reshape(shape);
        self.last = name;
        x
    }
}

/// `[batch, everything else]`.
fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let shape = x.dims();
    let rest = shape[1..].iter().product();
    x.reshape([shape[0], rest])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// What a small network shows, each name with its shape, and what comes out of it if the observer adds `added` to what
    /// is called `changed`.
    fn shown(only_new: bool, changed: &str, added: f64) -> (Vec<String>, Vec<f64>) {
        let mut lines = Vec::new();
        let mut taps = Taps::observe(|name, shape, x| {
            lines.push(format!("{name} {shape:?}"));
            if name == changed { x + added } else { x }
        });
        if only_new {
            taps = taps.without_repeats();
        }
        let x = Tensor::<3>::zeros([2, 3, 4], &Device::flex());
        let x = taps.stage(|| "layer1".into(), &[1.0f64, 2.0], x, |block, x| x + *block);
        let x = taps.map_again(|| "stem".into(), x);
        let y = Tensor::<2>::zeros([2, 5], &Device::flex());
        let (x, y) = taps.map_both(|| "blocks.0".into(), x, y);
        let list = taps.map_all(|| "list".into(), vec![x.clone(), x]);
        drop(taps);
        let values = |x: Tensor<2>| -> Vec<f64> { x.try_into_vec_as().expect("a readable tensor") };
        let one = |x: &Tensor<3>| values(rows(x.clone()))[0];
        (lines, list.iter().map(one).chain([values(y)[9]]).collect())
    }

    #[test]
    fn stages_and_lists_have_names_of_their_own() {
        let (lines, _) = shown(false, "", 0.0);
        let expected = [
            "layer1.0 [2, 3, 4]",
            "layer1.1 [2, 3, 4]",
            "layer1 [2, 3, 4]",
            "stem [2, 3, 4]",
            "blocks.0.0 [2, 3, 4]",
            "blocks.0.1 [2, 5]",
            "blocks.0 [2, 17]",
            "list.0 [2, 3, 4]",
            "list.1 [2, 3, 4]",
            "list [2, 24]",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn repeats_can_be_left_out() {
        let (lines, results) = shown(true, "layer1", 1.0);
        let new = ["layer1.0", "layer1.1", "blocks.0.0", "blocks.0.1", "list.0", "list.1"];
        assert!(lines.iter().map(|line| line.split(' ').next().unwrap()).eq(new), "{lines:?}");
        assert_eq!(results, [3.0, 3.0, 0.0]);
    }

    #[test]
    fn what_the_observer_returns_goes_on() {
        for (changed, results) in [
            ("layer1.0", [4.0, 4.0, 0.0]),
            ("layer1", [4.0, 4.0, 0.0]),
            ("blocks.0.1", [3.0, 3.0, 1.0]),
            ("blocks.0", [4.0, 4.0, 1.0]),
            ("list.0", [4.0, 3.0, 0.0]),
            ("list", [4.0, 4.0, 0.0]),
        ] {
            assert_eq!(shown(false, changed, 1.0).1, results, "{changed}");
        }
    }
}
