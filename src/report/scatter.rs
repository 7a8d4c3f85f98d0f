//! Points of two quantities; ensembles by how alike the members are and how many fewer images are wrong.

use super::figure::{Figure, escape, group_mark, width_of};
use crate::analysis::ensembles::{Ensemble, EnsemblesOfSize};

/// The size of the area of points, in pixels.
const AREA: [f64; 2] = [560.0, 360.0];
/// Left of it, above it, right of it, below it.
const MARGINS: [f64; 4] = [64.0, 12.0, 130.0, 52.0];

/// Points of one kind.
#[derive(Debug, Clone)]
pub struct Series {
    /// What they are.
    pub name: String,
    /// The points.
    pub points: Vec<Point>,
}

/// A point with what is said of it.
#[derive(Debug, Clone)]
pub struct Point {
    /// Across and up.
    pub place: [f64; 2],
    /// For whoever points at it.
    pub text: String,
}

/// What an axis shows.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Its name.
    pub name: &'static str,
    /// What stands behind each number, such as ` %`.
    pub unit: &'static str,
}

/// Draws every ensemble that has a SAT score and an error reduction rate, with the mark of its size; `names` are those of the
/// networks that members are positions of.
pub fn scatter(sizes: &[EnsemblesOfSize], names: &[&str], title: &str) -> Figure {
    let point = |ensemble: &Ensemble| {
        let (sat, reduction) = (ensemble.sat?, 100.0 * ensemble.error_reduction?);
        let members: Vec<&str> = ensemble.members.iter().map(|&member| names[member]).collect();
        let text = format!("{}: SAT {sat:.3}, {reduction:.1} % fewer errors", members.join(" + "));
        sat.is_finite().then_some(Point { place: [sat, reduction], text })
    };
    let series = |sized: &EnsemblesOfSize| Series {
        name: format!("{} members", sized.size),
        points: sized.ensembles.iter().filter_map(point).collect(),
    };
    let series: Vec<Series> = sizes.iter().map(series).collect();
    let across = Quantity { name: "mean SAT of the members’ pairs", unit: "" };
    points(&series, [across, Quantity { name: "error reduction rate", unit: " %" }], title)
}

/// Draws points of some kinds, each kind with a mark of its own.
pub fn points(series: &[Series], quantities: [Quantity; 2], title: &str) -> Figure {
    let [left, top, right, bottom] = MARGINS;
    let names = series.iter().map(|series| width_of(&series.name, 12.0)).fold(0.0, f64::max);
    let right = right.max(names + 46.0);
    let mut figure = Figure::new(title, left + AREA[0] + right, top + AREA[1] + bottom);
    let all = || series.iter().flat_map(|series| &series.points);
    let axes = [0, 1].map(|axis| Axis::of(all().map(|point| point.place[axis])));
    let decimals = [axes[0].decimals(), axes[1].decimals()];
    let x = |value: f64| left + AREA[0] * axes[0].share(value);
    let y = |value: f64| top + AREA[1] * (1.0 - axes[1].share(value));
    let [unit_across, unit_up] = quantities.map(|quantity| quantity.unit);

    for value in axes[0].ticks() {
        figure.add(format_args!(
            "<path d=\"M{0:.1} {top}v{1}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\
             <text x=\"{0:.1}\" y=\"{2}\" font-size=\"11\" text-anchor=\"middle\">{value:.3$}{unit_across}</text>",
            x(value),
            AREA[1],
            top + AREA[1] + 16.0,
            decimals[0]
        ));
    }
    for value in axes[1].ticks() {
        figure.add(format_args!(
            "<path d=\"M{left} {0:.1}h{1}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\
             <text x=\"{2}\" y=\"{0:.1}\" font-size=\"11\" text-anchor=\"end\" dominant-baseline=\"central\">{value:.3$}{unit_up}</text>",
            y(value),
            AREA[0],
            left - 8.0,
            decimals[1]
        ));
    }
    figure.add(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        left + 0.5 * AREA[0],
        top + AREA[1] + 38.0,
        quantities[0].name,
        top + 0.5 * AREA[1],
        quantities[1].name
    ));
    for (index, series) in series.iter().enumerate() {
        let (colour, shape) = group_mark(index);
        for Point { place, text } in &series.points {
            figure.add(format_args!(
                "<path class=\"point\" transform=\"translate({:.1} {:.1}) scale(0.7)\" d=\"{shape}\" fill=\"{colour}\" fill-opacity=\"0.6\">\
                 <title>{}</title></path>",
                x(place[0]),
                y(place[1]),
                escape(text)
            ));
        }
        let (mark, middle) = (left + AREA[0] + 24.0, top + 12.0 + 22.0 * index as f64);
        figure.add(format_args!(
            "<path transform=\"translate({mark} {middle})\" d=\"{shape}\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{middle}\" dominant-baseline=\"central\">{}</text>",
            mark + 14.0,
            escape(&series.name)
        ));
    }
    figure
}

/// A range of whole steps, each 1, 2 or 5 times a power of ten.
pub(super) struct Axis {
    step: f64,
    /// The first step's number.
    first: f64,
    steps: usize,
}

impl Axis {
    /// About five steps around all values.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low < high {
            (low, high)
        } else if low.is_finite() {
            (low.min(0.0), low + 1.0)
        } else {
            (0.0, 1.0)
        };
        let power = 10f64.powf(((high - low) / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| (high - low) / step <= 6.5);
        let step = step.unwrap_or(10.0 * power);
        let first = (low / step).floor();
        Self { step, first, steps: ((high / step).ceil() - first).max(1.0) as usize }
    }

    /// Where a value lies, 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value / self.step - self.first) / self.steps as f64
    }

    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> {
        (0..=self.steps).map(|index| (self.first + index as f64) * self.step)
    }

    /// How many decimals tell the ticks apart.
    pub(super) fn decimals(&self) -> usize {
        (-self.step.log10().floor()).max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_go_from_round_number_to_round_number() {
        let axis = Axis::of([0.13, 2.4].into_iter());
        assert_eq!(
            axis.ticks().map(|tick| format!("{tick:.1}")).collect::<Vec<_>>().join(" "),
            "0.0 0.5 1.0 1.5 2.0 2.5"
        );
        assert_eq!((axis.share(0.0), axis.share(2.5), axis.decimals()), (0.0, 1.0, 1));
        let negative = Axis::of([-13.0, 22.0].into_iter());
        assert_eq!(negative.ticks().collect::<Vec<_>>(), [-20.0, -10.0, 0.0, 10.0, 20.0, 30.0]);
        for values in [vec![], vec![3.0], vec![0.0, 0.0]] {
            let axis = Axis::of(values.into_iter());
            assert!(axis.ticks().all(f64::is_finite) && axis.steps < 20);
        }
    }

    #[test]
    fn a_point_for_each_ensemble_that_has_both_numbers() {
        let ensemble = |members: [usize; 2], sat, error_reduction| Ensemble {
            members: members.into(),
            sat,
            error: 0.1,
            members_error: 0.2,
            error_reduction,
            all_wrong: 0.0,
            clusters: None,
        };
        let ensembles = vec![
            ensemble([0, 1], Some(1.0), Some(0.5)),
            ensemble([0, 2], Some(2.0), Some(-0.1)),
            ensemble([1, 2], None, Some(0.2)),
        ];
        let sized = EnsemblesOfSize { size: 2, possible: 3.0, ensembles, correlation: None };
        let svg = scatter(&[sized], &["a", "<b>", "c"], "T").to_svg();
        assert_eq!(svg.matches("class=\"point\"").count(), 2);
        assert!(svg.contains("a + &lt;b&gt;: SAT 1.000, 50.0 % fewer errors") && svg.contains("2 members"), "{svg}");
        assert!(svg.contains("-10.0 % fewer") && svg.contains(">-10 %<"));
    }
}
