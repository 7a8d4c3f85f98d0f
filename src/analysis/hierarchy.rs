//! Hierarchical clustering: a dendrogram, and an order of the networks in which neighbours are alike.

use serde::Serialize;

use super::distance::Distances;
use super::read::pairs;

/// Networks joined two and two until one group is left, by average linkage: the distance of two groups is the mean
/// distance of their members.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dendrogram {
    /// The joins, the closest first. Groups 0 up to below n are the networks; join i makes the group n + i.
    pub joins: Vec<Join>,
    /// The networks from one end of the drawn dendrogram to the other.
    pub order: Vec<usize>,
}

/// Two groups become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Join {
    /// A group.
    pub a: usize,
    /// Another.
    pub b: usize,
    /// Their distance.
    pub height: f64,
}

impl Dendrogram {
    /// Joins at least one network.
    pub fn of(distances: &Distances) -> Self {
        let size = distances.size();
        let mut condensed: Vec<f64> = pairs(size).map(|(row, column)| distances.get(row, column)).collect();
        let linkage = kodama::linkage(&mut condensed, size, kodama::Method::Average);
        let joins: Vec<Join> = linkage
            .steps()
            .iter()
            .map(|step| Join { a: step.cluster1, b: step.cluster2, height: step.dissimilarity })
            .collect();
        let order = order(size, &joins, distances);
        Self { joins, order }
    }

    /// The label of each network when the last joins are undone, so that `groups` (1 up to the number of networks) are left,
    /// numbered by their first network.
    pub fn cut(&self, groups: usize) -> Vec<usize> {
        let size = self.order.len();
        let mut members: Vec<Vec<usize>> = (0..size).map(|network| vec![network]).collect();
        for join in &self.joins[..size - groups] {
            let mut joined = std::mem::take(&mut members[join.a]);
            joined.append(&mut members[join.b]);
            members.push(joined);
        }
        members.retain(|group| !group.is_empty());
        members.sort_by_key(|group| group.iter().min().copied());
        let mut labels = vec![0; size];
        for (label, group) in members.iter().enumerate() {
            for &network in group {
                labels[network] = label;
            }
        }
        labels
    }
}

/// The leaves of the dendrogram, each join turned so that the two networks that come to lie side by side are the closest.
fn order(size: usize, joins: &[Join], distances: &Distances) -> Vec<usize> {
    let mut sequences: Vec<Vec<usize>> = (0..size).map(|network| vec![network]).collect();
    for join in joins {
        let mut left = std::mem::take(&mut sequences[join.a]);
        let mut right = std::mem::take(&mut sequences[join.b]);
        let gap = |a: &Vec<usize>, turn_a: bool, b: &Vec<usize>, turn_b: bool| {
            let end = if turn_a { a[0] } else { a[a.len() - 1] };
            let start = if turn_b { b[b.len() - 1] } else { b[0] };
            distances.get(end, start)
        };
        let turns = [(false, false), (true, false), (false, true), (true, true)];
        let best =
            turns.into_iter().min_by(|&(a, b), &(c, d)| gap(&left, a, &right, b).total_cmp(&gap(&left, c, &right, d)));
        let (turn_left, turn_right) = best.unwrap_or_default();
        if turn_left {
            left.reverse();
        }
        if turn_right {
            right.reverse();
        }
        left.append(&mut right);
        sequences.push(left);
    }
    sequences.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places on a line: 0 and 1 are close, 10 and 12, and 30 is far from all.
    fn line() -> Distances {
        let places = [10.0, 0.0, 30.0, 12.0, 1.0f64];
        Distances::new(5, |row, column| (places[row] - places[column]).abs())
    }

    #[test]
    fn the_closest_are_joined_first_by_their_mean_distance() {
        let dendrogram = Dendrogram::of(&line());
        let heights: Vec<f64> = dendrogram.joins.iter().map(|join| join.height).collect();
        assert_eq!(heights, [1.0, 2.0, 10.5, 24.25]);
        assert_eq!(dendrogram.cut(3), [0, 1, 2, 0, 1]);
        assert_eq!(dendrogram.cut(1), [0; 5]);
    }

    #[test]
    fn neighbours_in_the_order_are_alike() {
        let mut order = Dendrogram::of(&line()).order;
        if order[0] == 2 {
            order.reverse();
        }
        assert_eq!(order, [1, 4, 0, 3, 2]);
    }

    #[test]
    fn one_network_is_a_dendrogram_without_joins() {
        let dendrogram = Dendrogram::of(&Distances::new(1, |_, _| 0.0));
        assert_eq!((dendrogram.joins.len(), dendrogram.order), (0, vec![0]));
    }
}
