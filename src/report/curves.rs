//! How numbers changed over the epochs of a training: curves, one area below the other.

use super::figure::{Figure, escape, group_mark, width_of};
use super::scatter::{Axis, Point, Quantity, Series};

/// The size of each area, in pixels.
const AREA: [f64; 2] = [560.0, 200.0];
/// Left of it, above it, right of it, below it.
const MARGINS: [f64; 4] = [64.0, 16.0, 130.0, 40.0];

/// Curves of one quantity.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is drawn upwards.
    pub quantity: Quantity,
    /// The curves; of each point the place is (epoch, value).
    pub series: Vec<Series>,
}

/// Draws the panels one below the other, over the same epochs.
pub fn curves(panels: &[Panel], title: &str) -> Figure {
    let [left, top, right, bottom] = MARGINS;
    let names = panels.iter().flat_map(|panel| &panel.series);
    let widest = names.map(|series| width_of(&series.name, 12.0)).fold(0.0, f64::max);
    let right = right.max(widest + 46.0);
    let height = top + AREA[1] + bottom;
    let mut figure = Figure::new(title, left + AREA[0] + right, height * panels.len() as f64);
    let points = panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points);
    let epochs = Axis::of(points.map(|point| point.place[0]));
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut figure, panel, &epochs, top + height * index as f64, left);
    }
    figure
}

/// Draws a panel whose area begins at that height.
fn draw(figure: &mut Figure, Panel { quantity, series }: &Panel, epochs: &Axis, top: f64, left: f64) {
    let values = Axis::of(series.iter().flat_map(|series| &series.points).map(|point| point.place[1]));
    let x = |epoch: f64| left + AREA[0] * epochs.share(epoch);
    let y = |value: f64| top + AREA[1] * (1.0 - values.share(value));
    for epoch in epochs.ticks() {
        figure.add(format_args!(
            "<path d=\"M{0:.1} {top}v{1}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\
             <text x=\"{0:.1}\" y=\"{2}\" font-size=\"11\" text-anchor=\"middle\">{epoch:.3$}</text>",
            x(epoch),
            AREA[1],
            top + AREA[1] + 16.0,
            epochs.decimals()
        ));
    }
    for value in values.ticks() {
        figure.add(format_args!(
            "<path d=\"M{left} {0:.1}h{1}\" stroke=\"currentColor\" stroke-opacity=\"0.12\"/>\
             <text x=\"{2}\" y=\"{0:.1}\" font-size=\"11\" text-anchor=\"end\" dominant-baseline=\"central\">{value:.3$}{4}</text>",
            y(value),
            AREA[0],
            left - 8.0,
            values.decimals(),
            quantity.unit
        ));
    }
    figure.add(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>\
         <text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        left + 0.5 * AREA[0],
        top + AREA[1] + 32.0,
        top + 0.5 * AREA[1],
        quantity.name
    ));
    for (index, Series { name, points }) in series.iter().enumerate() {
        let (colour, shape) = group_mark(index);
        let line: Vec<String> =
            points.iter().map(|point| format!("{:.1} {:.1}", x(point.place[0]), y(point.place[1]))).collect();
        figure.add(format_args!(
            "<path class=\"curve\" d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            line.join("L")
        ));
        for Point { place, text } in points {
            figure.add(format_args!(
                "<path class=\"point\" transform=\"translate({:.1} {:.1}) scale(0.5)\" d=\"{shape}\" fill=\"{colour}\">\
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
            escape(name)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_for_each_series_and_a_mark_for_each_epoch() {
        let series = |name: &str, values: &[f64]| Series {
            name: name.into(),
            points: (1..)
                .zip(values)
                .map(|(epoch, value)| Point { place: [f64::from(epoch), *value], text: format!("{name} {value}") })
                .collect(),
        };
        let quantity = Quantity { name: "accuracy", unit: " %" };
        let panels = [
            Panel { quantity: Quantity { name: "loss", unit: "" }, series: vec![series("<loss>", &[2.0, 1.0, 0.5])] },
            Panel { quantity, series: vec![series("training", &[10.0, 20.0]), series("test", &[12.0])] },
        ];
        let svg = curves(&panels, "T").to_svg();
        assert_eq!(svg.matches("class=\"curve\"").count(), 3);
        assert_eq!(svg.matches("class=\"point\"").count(), 6);
        assert!(svg.contains("&lt;loss&gt; 0.5") && svg.contains(" %</text>"), "{svg}");
        assert!(curves(&[], "none").to_svg().contains("<svg"));
    }
}
