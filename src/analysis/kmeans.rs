//! k-means: Lloyd's iterations from centres drawn as k-means++ does (Arthur & Vassilvitskii 2007).

use crate::random::Random;

/// Points in clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// The cluster of each point.
    pub labels: Vec<usize>,
    /// The sum of the points' squared distances from their centres.
    pub inertia: f64,
}

/// Iterations after which a run ends although points still change clusters.
const ITERATIONS: usize = 300;

/// The best of several runs, each from other drawn centres. `points` are of one length and at least `clusters`.
pub fn kmeans(points: &[Vec<f64>], clusters: usize, runs: usize, seed: u64) -> KMeans {
    (0..runs as u64)
        .map(|run| lloyd(points, draw_centres(points, clusters, &mut Random::of(&[seed, run]))))
        .min_by(|a, b| a.inertia.total_cmp(&b.inertia))
        .expect("there is at least one run")
}

/// The first centre is any point; each other is drawn by its squared distance from the nearest centre so far.
fn draw_centres(points: &[Vec<f64>], clusters: usize, random: &mut Random) -> Vec<Vec<f64>> {
    let mut centres = vec![points[random.below(points.len())].clone()];
    let mut nearest: Vec<f64> = points.iter().map(|point| squared_distance(point, &centres[0])).collect();
    while centres.len() < clusters {
        let mut left = random.unit() * nearest.iter().sum::<f64>();
        let drawn = nearest.iter().position(|&distance| {
            left -= distance;
            left < 0.0
        });
        // Where all points lie on centres, any will do.
        let centre = points[drawn.unwrap_or_else(|| random.below(points.len()))].clone();
        for (nearest, point) in nearest.iter_mut().zip(points) {
            *nearest = nearest.min(squared_distance(point, &centre));
        }
        centres.push(centre);
    }
    centres
}

fn lloyd(points: &[Vec<f64>], mut centres: Vec<Vec<f64>>) -> KMeans {
    let mut labels = vec![usize::MAX; points.len()];
    let mut inertia = f64::INFINITY;
    for _ in 0..ITERATIONS {
        let assigned: Vec<(usize, f64)> = points.iter().map(|point| nearest(point, &centres)).collect();
        inertia = assigned.iter().map(|(_, distance)| distance).sum();
        if assigned.iter().map(|(label, _)| label).eq(&labels) {
            break;
        }
        labels = assigned.iter().map(|&(label, _)| label).collect();
        update(&mut centres, points, &assigned);
    }
    KMeans { labels, inertia }
}

/// Moves each centre to the mean of its points; one without points goes to the point that lies farthest from its centre.
fn update(centres: &mut [Vec<f64>], points: &[Vec<f64>], assigned: &[(usize, f64)]) {
    let mut counts = vec![0usize; centres.len()];
    for centre in centres.iter_mut() {
        centre.fill(0.0);
    }
    for (point, &(label, _)) in points.iter().zip(assigned) {
        counts[label] += 1;
        for (sum, element) in centres[label].iter_mut().zip(point) {
            *sum += element;
        }
    }
    let mut farthest: Vec<usize> = (0..points.len()).collect();
    farthest.sort_by(|&a, &b| assigned[a].1.total_cmp(&assigned[b].1));
    for (centre, count) in centres.iter_mut().zip(counts) {
        if count > 0 {
            centre.iter_mut().for_each(|sum| *sum /= count as f64);
        } else if let Some(point) = farthest.pop() {
            centre.clone_from(&points[point]);
        }
    }
}

/// The nearest centre and its squared distance.
fn nearest(point: &[f64], centres: &[Vec<f64>]) -> (usize, f64) {
    let distances = centres.iter().map(|centre| squared_distance(point, centre));
    distances.enumerate().fold((0, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_lie_together_are_found() {
        let points: Vec<Vec<f64>> = (0..30)
            .map(|index| vec![f64::from(index % 3) * 10.0 + f64::from(index) * 0.01, f64::from(index % 3) * -5.0])
            .collect();
        let found = kmeans(&points, 3, 5, 1);
        assert!((0..30).all(|index| found.labels[index] == found.labels[index % 3]));
        let within: f64 = (0..30).map(|index| (f64::from(index - index % 3) * 0.01 - 0.135).powi(2)).sum();
        assert!((found.inertia - within).abs() < 1e-9, "{} is not {within}", found.inertia);
        assert_eq!(found, kmeans(&points, 3, 5, 1));
    }

    #[test]
    fn as_many_clusters_as_points_and_equal_points() {
        let points: Vec<Vec<f64>> = (0..4).map(|index| vec![f64::from(index)]).collect();
        assert_eq!(kmeans(&points, 4, 3, 0).inertia, 0.0);
        let equal = vec![vec![1.0]; 5];
        assert_eq!(kmeans(&equal, 2, 3, 0).inertia, 0.0);
    }
}
