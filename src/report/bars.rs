//! Importances as bars with their intervals.

use super::figure::{Figure, GROUP_COLOURS, escape, width_of};
use crate::analysis::importance::Importance;

/// How wide the bars may be, in pixels.
const WIDTH: f64 = 460.0;
/// The height of a row.
const ROW: f64 = 24.0;

/// Draws them in their order.
pub fn bars(components: &[Importance], title: &str) -> Figure {
    let left = 16.0 + components.iter().map(|component| width_of(&component.component, 12.0)).fold(0.0, f64::max);
    let low = components.iter().map(|component| component.interval[0]).fold(0.0, f64::min);
    let high = components.iter().map(|component| component.interval[1].max(component.importance)).fold(0.0, f64::max);
    let x = |value: f64| left + if high > low { WIDTH * (value - low) / (high - low) } else { 0.0 };
    let bottom = ROW * components.len() as f64 + 8.0;
    let mut figure = Figure::new(title, left + WIDTH + 70.0, bottom + 26.0);
    for (row, Importance { component, importance, interval, .. }) in components.iter().enumerate() {
        let middle = ROW * (row as f64 + 0.5) + 4.0;
        let (from, to) = (x(importance.min(0.0)), x(importance.max(0.0)));
        let [start, end] = interval.map(x);
        figure.add(format_args!(
            "<g><title>{name}: {importance:.3}, 95 % interval {:.3} to {:.3}</title>\
             <text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" dominant-baseline=\"central\">{name}</text>\
             <rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"14\" rx=\"2\" fill=\"{}\"/>\
             <path d=\"M{start:.1} {middle}H{end:.1}M{start:.1} {whisker}v8M{end:.1} {whisker}v8\" stroke=\"currentColor\" fill=\"none\"/>\
             <text x=\"{}\" y=\"{middle}\" dominant-baseline=\"central\">{importance:.3}</text></g>",
            interval[0],
            interval[1],
            left - 8.0,
            middle - 7.0,
            to - from,
            GROUP_COLOURS[0],
            left + WIDTH + 12.0,
            whisker = middle - 4.0,
            name = escape(component),
        ));
    }
    figure.add(format_args!(
        "<path d=\"M{0:.1} 4V{bottom}\" stroke=\"currentColor\" stroke-opacity=\"0.5\"/>\
         <text x=\"{0:.1}\" y=\"{1}\" font-size=\"11\" text-anchor=\"middle\">0</text>\
         <text x=\"{2:.1}\" y=\"{1}\" font-size=\"11\" text-anchor=\"end\">fall of R² when permuted</text>",
        x(0.0),
        bottom + 16.0,
        left + WIDTH
    ));
    figure
}
