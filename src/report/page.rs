//! The report on a matrix as one HTML file: figures, tables and the data behind them, with `report.js` for sorting, zooming and hovering.
//! Without JavaScript everything is there but that.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::figure::{GROUP_COLOURS, GROUP_SHAPES, colour, escape, group_mark};
use super::heat_map::HeatMap;
use super::{Observed, Report, map};
use crate::analysis::clusters::Keyword;
use crate::analysis::compare::{Correlation, compare};
use crate::analysis::ensembles::{Ensemble, EnsemblesOfSize, finding};
use crate::analysis::uncertainty::WithInterval;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
/// Keywords that are shown of a cluster.
const WORDS: usize = 5;

pub fn page(report: &Report) -> String {
    let figures = report.figures();
    let drawn =
        |name: &str| figures.iter().find(|(other, _)| *other == name).map(|(name, figure)| figure.to_html(name));
    let mut sections = vec![overview(report), heat_map_section(report, drawn("heat-map").unwrap_or_default())];
    sections.extend(report.clustering.as_ref().map(|_| cluster_section(report)));
    sections.push(section(
        "dendrogram-section",
        "Dendrogram",
        "The same distances joined pair by pair (average linkage); marks have the colours of the clusters.",
        &scrolled(&drawn("dendrogram").unwrap_or_default()),
    ));
    let drawn_map = drawn("map-tsne").or_else(|| drawn("map-mds")).unwrap_or_default();
    sections.push(map_section(report, &drawn_map));
    if let (Some(importances), Some(bars)) = (&report.importances, drawn("importance")) {
        let note = format!(
            "By how much the prediction of scores from component mismatches gets worse when a component is permuted, with 95 % intervals over \
             networks. R² is {:.3} for pairs that were seen, {:.3} for pairs left out and {:.3} for networks left out.",
            importances.r2_fitted, importances.r2_pairs_left_out, importances.r2_networks_left_out
        );
        sections.push(section("importance-section", "Which components make networks differ", &note, &scrolled(&bars)));
    }
    if let (Some(observed), Some(points)) = (&report.observed, drawn("ensembles")) {
        sections.push(ensemble_section(observed, &points));
    }
    if !report.measures.is_empty() {
        sections.push(measures_section(report));
    }
    if !report.layers.is_empty() {
        sections.push(layers_section(report));
    }
    sections.push(provenance(report));
    let button = "<button id=\"theme\" type=\"button\" class=\"needs-script\" aria-label=\"Switch between light and dark\">◐</button>";
    let script = format!(
        "<div id=\"tip\" role=\"status\" aria-live=\"polite\" hidden></div>\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n",
        data(report)
    );
    document(&report.title, &report.source, button, &sections.concat(), &script)
}

/// The document around the sections of a page. `button` stands beside the title, `script` behind the sections; both are HTML, as the
/// sections are, and may be empty.
pub(super) fn document(title: &str, source: &str, button: &str, sections: &str, script: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><div><h1>{title}</h1><p class=\"note\">{}</p></div>{button}</header>\n\
         <main>\n{sections}</main>\n{script}</body>\n</html>\n",
        escape(source)
    )
}

pub(super) fn section(id: &str, title: &str, note: &str, content: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{content}</section>\n")
}

pub(super) fn scrolled(figure: &str) -> String {
    format!("<div class=\"scroll\">{figure}</div>\n")
}

fn overview(report: &Report) -> String {
    let summary = &report.summary;
    let tile = |name: &str, value: String, note: &str| {
        format!("<div class=\"tile\"><dt>{name}</dt><dd>{value}</dd><dd class=\"note\">{}</dd></div>\n", escape(note))
    };
    let pair = |pair: &crate::analysis::summary::ScoredPair| format!("{} – {}", pair.a, pair.b);
    let mut tiles = tile("Networks", summary.networks.to_string(), &format!("{} pairs", summary.pairs));
    let interval = report.observed.as_ref().and_then(|observed| observed.mean);
    let interval = interval.map_or(String::new(), |WithInterval { interval: [low, high], .. }| {
        format!("95 % interval over images {low:.3} to {high:.3}, ")
    });
    tiles += &tile(
        "Mean score",
        format!("{:.3}", summary.mean),
        &format!("{interval}standard deviation {:.3}", summary.standard_deviation),
    );
    tiles += &tile("Median", format!("{:.3}", summary.median), &format!("with itself {:.3}", summary.mean_diagonal));
    tiles += &tile("Most alike", format!("{:.3}", summary.most_alike.score), &pair(&summary.most_alike));
    tiles += &tile("Least alike", format!("{:.3}", summary.least_alike.score), &pair(&summary.least_alike));
    format!("<dl class=\"tiles\">\n{tiles}</dl>\n")
}

fn heat_map_section(report: &Report, figure: String) -> String {
    let mut choices = String::new();
    if report.clustering.is_some() {
        choices += "<option value=\"cluster\">cluster</option>";
    }
    choices += "<option value=\"dendrogram\">dendrogram</option>";
    for (index, column) in report.components.iter().flat_map(|components| components.columns.iter().enumerate()) {
        choices += &format!("<option value=\"component-{index}\">{}</option>", escape(column));
    }
    choices += "<option value=\"name\">name</option><option value=\"matrix\">as in the file</option>";
    let content = format!(
        "<div class=\"controls needs-script\">\n<label>Order by <select id=\"order\">{choices}</select></label>\n\
         <span class=\"buttons\"><button type=\"button\" id=\"smaller\" aria-label=\"Smaller\">−</button>\
         <button type=\"button\" id=\"whole\">Fit</button><button type=\"button\" id=\"larger\" aria-label=\"Larger\">+</button></span>\n\
         <button type=\"button\" id=\"copy\">Copy as CSV</button>\n</div>\n\
         <div class=\"scroll\" id=\"heat-map-box\" tabindex=\"0\" aria-label=\"Heat map: arrow keys go from cell to cell, plus and minus zoom\">{figure}</div>\n"
    );
    let note = "How alike each two networks are. Colours span the scores of different networks; hover, or go by arrow keys, to read one.";
    section("heat-map-section", "Heat map", note, &content)
}

fn cluster_section(report: &Report) -> String {
    let Some(clustering) = &report.clustering else { return String::new() };
    let stability = &clustering.stability;
    let head = if report.keywords.is_empty() { "" } else { "<th>Stands out</th>" };
    let mut rows = String::new();
    for (cluster, members) in clustering.members().iter().enumerate() {
        let (colour, shape) = group_mark(cluster);
        let names: Vec<String> = members
            .iter()
            .map(|&network| {
                let together = stability.membership[network];
                let name = escape(&report.matrix.names[network]);
                if together < 0.5 {
                    format!(
                        "<span class=\"loose\" title=\"with this cluster in {:.0} % of seeds\">{name}?</span>",
                        100.0 * together
                    )
                } else {
                    name
                }
            })
            .collect();
        let count = members.len() as f64;
        let mean = |values: &[f64]| members.iter().map(|&network| values[network]).sum::<f64>() / count;
        let words: Vec<String> = report
            .keywords
            .get(cluster)
            .into_iter()
            .flat_map(|words| words.iter().take(WORDS))
            .map(|Keyword { component, value, share, .. }| {
                format!(
                    "<span class=\"word\" title=\"{:.0} % of the cluster\">{}: {}</span>",
                    100.0 * share,
                    escape(component),
                    escape(value)
                )
            })
            .collect();
        rows += &format!(
            "<tr><td><svg width=\"14\" height=\"14\" viewBox=\"-7 -7 14 14\" aria-hidden=\"true\"><path d=\"{shape}\" fill=\"{colour}\"/></svg>\u{a0}{}</td>\
             <td>{}</td>{}<td class=\"number\" data-name=\"Together\">{:.0}\u{a0}%</td><td class=\"number\" data-name=\"Silhouette\">{:.2}</td></tr>\n",
            cluster + 1,
            names.join(", "),
            if head.is_empty() { String::new() } else { format!("<td>{}</td>", words.join(" ")) },
            100.0 * mean(&stability.membership),
            mean(&clustering.silhouettes)
        );
    }
    let largest = |count: usize| {
        clustering.eigenvalues.iter().take(count).map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(" ")
    };
    let note = format!(
        "Spectral clustering, lowest inertia {:.3}, which {:.0} % of the seeds found. Two seeds agree by {:.2} in the mean (adjusted Rand index). \
         A network with a question mark is with its cluster in less than half of the seeds. Leading eigenvalues {}; the largest gap \
         behind the first is after {}. Agreement with the dendrogram: {:.2}.",
        clustering.inertia,
        100.0 * stability.found_best,
        stability.mean_rand_index,
        largest(clustering.members().len() + 1),
        clustering.eigengap,
        clustering.agreement_with_dendrogram
    );
    let table = format!(
        "<div class=\"scroll\"><table class=\"clusters\">\n<thead><tr><th>Cluster</th><th>Networks</th>{head}<th>Together</th><th>Silhouette</th></tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n"
    );
    section("clusters", "Clusters", &note, &table)
}

fn map_section(report: &Report, figure: &str) -> String {
    let mut colours = String::new();
    if report.clustering.is_some() {
        colours += "<option value=\"cluster\">cluster</option>";
    }
    for (index, column) in report.components.iter().flat_map(|components| components.columns.iter().enumerate()) {
        colours += &format!("<option value=\"component-{index}\">{}</option>", escape(column));
    }
    let kinds = if report.tsne.is_some() {
        "<option value=\"tsne\">t-SNE (neighbours)</option><option value=\"mds\">classical scaling (distances)</option>"
    } else {
        "<option value=\"mds\">classical scaling (distances)</option>"
    };
    let note = format!(
        "Networks that are alike lie close. t-SNE keeps who is whose neighbour; classical scaling keeps distances and shows {:.0} % of their spread.",
        100.0 * report.mds.shown
    );
    let content = format!(
        "<div class=\"controls needs-script\"><label>Map <select id=\"map-kind\">{kinds}</select></label>\n\
         <label>Colour by <select id=\"map-colour\">{colours}</select></label></div>\n\
         <div class=\"map\">{figure}<ul id=\"legend\" class=\"legend\"></ul></div>\n"
    );
    section("map-section", "Map of the networks", &note, &content)
}

fn ensemble_section(observed: &Observed, points: &str) -> String {
    let percent = |share: f64| format!("{:.2}\u{a0}%", 100.0 * share);
    let mut rows = String::new();
    for EnsemblesOfSize { size, possible, ensembles, correlation } in &observed.ensembles {
        let mean = |of: &dyn Fn(&Ensemble) -> Option<f64>| {
            let values: Vec<f64> = ensembles.iter().filter_map(of).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let correlation = match correlation {
            Some(WithInterval { estimate, interval: [low, high] }) => {
                format!("{estimate:.3} [{low:.3}, {high:.3}]")
            }
            None => "none".into(),
        };
        let numbers = [
            format!("{} of {possible}", ensembles.len()),
            percent(mean(&|ensemble| Some(ensemble.members_error))),
            percent(mean(&|ensemble| Some(ensemble.error))),
            percent(mean(&|ensemble| ensemble.error_reduction)),
            percent(mean(&|ensemble| Some(ensemble.all_wrong))),
            correlation,
        ];
        let cells: String = numbers.iter().map(|number| format!("<td class=\"number\">{number}</td>")).collect();
        rows += &format!("<tr><td class=\"number\">{size}</td>{cells}</tr>\n");
    }
    let table = format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Members</th><th>Ensembles</th><th>A member wrong</th><th>Together wrong</th>\
         <th>Error reduction</th><th>All wrong</th><th>Correlation with SAT [95\u{a0}%]</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    );
    let note = format!(
        "The error reduction rate of an ensemble is 1 − its errors / its members’ mean errors; a negative correlation says that members that are \
         less alike reduce errors more. Means over all ensembles of a size; intervals over images drawn anew. {}",
        finding(&observed.ensembles)
    );
    section("ensembles-section", "Ensembles", &note, &(scrolled(points) + &table))
}

fn measures_section(report: &Report) -> String {
    let correlation = |Correlation { correlation, p_value }: Correlation| {
        format!("<td class=\"number\">{correlation:.3} (p\u{a0}=\u{a0}{p_value:.3})</td>")
    };
    let others: String =
        report.measures.iter().map(|other| format!("<th>ρ with {}</th>", escape(&other.name))).collect();
    let mut rows = String::new();
    for measure in &report.measures {
        let with_report = match &measure.agreement {
            Some(found) => [found.pearson, found.spearman, found.kendall].map(correlation).concat(),
            None => "<td class=\"number\">none</td>".repeat(3),
        };
        let with_other = |other: &super::OtherMeasure| match compare(&measure.matrix, &other.matrix, 0, 0) {
            Ok(found) => format!("<td class=\"number\">{:.3}</td>", found.spearman.correlation),
            Err(_) => "<td class=\"number\">none</td>".to_owned(),
        };
        let with_others: String = report.measures.iter().map(with_other).collect();
        rows += &format!("<tr><td>{}</td>{with_report}{with_others}</tr>\n", escape(&measure.name));
    }
    let table = format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>Measure</th><th>Pearson’s r</th><th>Spearman’s ρ</th><th>Kendall’s τ</th>{others}</tr></thead>\n\
         <tbody>\n{rows}</tbody></table></div>\n"
    );
    let note = format!(
        "The same networks by what they make of clean images. r, ρ and τ say how far a measure agrees with the scores above over all pairs of different \
         networks; p is how likely a correlation as far from 0 is if the networks were in an order by chance (Mantel 1967, {} permutations).",
        report.permutations()
    );
    let maps = report.measures.iter().map(|measure| (measure.name.as_str(), measure.what.as_str()));
    section("measures-section", "Other measures", &note, &(table + &further_maps(report, "measure-", maps)))
}

fn layers_section(report: &Report) -> String {
    let maps = report.layers.iter().map(|map| (map.title.as_str(), map.what.as_str()));
    let note = "How alike every layer is to every other, in the order in which images pass through them; lines part the networks.";
    section("layers-section", "Layers", note, &further_maps(report, "layers-", maps))
}

/// The heat maps whose names begin so, each under its title.
fn further_maps<'a>(report: &Report, kind: &str, titles: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let further = report.further();
    let of_kind = further.iter().filter(|further| further.id.starts_with(kind));
    let one = |(further, (title, what)): (&super::beside::Further, (&str, &str))| {
        let figure = scrolled(&further.figure().to_html(&further.id));
        format!("<h3>{}</h3>\n<p class=\"note\">{}</p>\n{figure}", escape(title), escape(what))
    };
    of_kind.zip(titles).map(one).collect()
}

fn provenance(report: &Report) -> String {
    let rows: String = report
        .provenance
        .iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)))
        .collect();
    let missing: String = report.missing.iter().map(|sentence| format!("<li>{}</li>\n", escape(sentence))).collect();
    let mut content = format!("<table class=\"plain\">{rows}</table>\n");
    if let Some(observed) = &report.observed {
        let rows: String = observed
            .networks
            .iter()
            .map(|(name, correct, sha256)| {
                format!(
                    "<tr><td>{}</td><td class=\"number\">{:.1}\u{a0}%</td><td><code>{}</code></td></tr>\n",
                    escape(name),
                    100.0 * correct,
                    escape(sha256)
                )
            })
            .collect();
        content += &format!(
            "<details><summary>The networks’ weights</summary><div class=\"scroll\"><table>\n\
             <thead><tr><th>Network</th><th>Correct</th><th>SHA-256</th></tr></thead>\n<tbody>\n{rows}</tbody></table></div></details>\n"
        );
    }
    if !report.missing.is_empty() {
        content += &format!("<h3>What is missing</h3>\n<ul>\n{missing}</ul>\n");
    }
    if !report.text.is_empty() {
        content += &format!("<h3>As text</h3>\n<div class=\"scroll\"><pre>{}</pre></div>\n", escape(&report.text));
    }
    section("provenance", "Where this comes from", "", &content)
}

/// What `report.js` works with. `<` is written so that no name can end the script element.
fn data(report: &Report) -> String {
    let matrix = &report.matrix;
    let order = report.order();
    let groups = report.groups();
    let heat_map = HeatMap { matrix, order: &order, groups: &groups, title: &report.title };
    let numbers = |values: &[f64]| {
        BASE64_STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    let further = report.further();
    let beside = further.iter().map(|further| {
        json!({
            "id": further.id,
            "names": further.matrix.names,
            "scores": numbers(&further.matrix.values),
            "order": further.order,
            "layout": further.heat_map().layout(),
        })
    });
    let beside: Vec<serde_json::Value> = beside.collect();
    let scale: Vec<[u8; 3]> = (0..256u16).map(|level| colour(f64::from(level) / 255.0)).collect();
    let document = json!({
        "names": matrix.names,
        "scores": numbers(&matrix.values),
        "images": report.observed.as_ref().map(|observed| {
            let counts: Vec<u8> = observed.counts.iter().flat_map(|count| count.to_le_bytes()).collect();
            json!({"counts": BASE64_STANDARD.encode(counts), "errors": numbers(&observed.standard_errors)})
        }),
        "layout": heat_map.layout(),
        "range": heat_map.range(),
        "scale": scale,
        "orders": {"cluster": order, "dendrogram": report.dendrogram.order},
        "clusters": report.clustering.as_ref().map(|clustering| &clustering.labels),
        "components": report.components.as_ref().map(|components| json!({"columns": components.columns, "rows": components.rows})),
        "maps": {"mds": map::fitted(&report.mds.places), "tsne": report.tsne.as_ref().map(|places| map::fitted(places))},
        "colours": GROUP_COLOURS,
        "shapes": GROUP_SHAPES,
        "beside": beside,
    });
    document.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::super::Report;
    use crate::analysis::components::NetworkComponents;
    use crate::similarity::Matrix;

    fn report() -> Report {
        let names: Vec<String> = ["a", "</script><b>", "c\"", "d'", "e&", "f"].map(String::from).into();
        let matrix = Matrix::new(names, |row, column| {
            if row == column {
                4.6
            } else {
                1.0 + f64::from(u8::from(row / 3 == column / 3)) + 0.1 * ((row * column) % 3) as f64
            }
        });
        let rows = (0..6).map(|index| vec![format!("<i>{}", index / 3), (index % 2).to_string()]).collect();
        let components = NetworkComponents { columns: vec!["Kind".into(), "<u>".into()], rows };
        Report::of("T <t>", "here & there", matrix, Some(components), 2)
    }

    #[test]
    fn nothing_of_the_data_is_read_as_html() {
        let html = report().to_html();
        for tag in ["<b>", "<i>", "<u>", "<t>"] {
            assert!(!html.contains(tag), "{tag}");
        }
        assert_eq!(html.matches("</script>").count(), 2, "the data and the script end once each");
        assert!(html.contains("here &amp; there"));
    }

    #[test]
    fn the_page_loads_nothing() {
        let html = report().to_html();
        let outside = html.match_indices("http").map(|(at, _)| &html[at..at + 26]);
        let outside: Vec<&str> = outside
            .filter(|text| !text.starts_with("http-equiv") && !text.starts_with("http://www.w3.org/2000/svg"))
            .collect();
        assert!(outside.is_empty(), "{outside:?}");
        assert!(!html.contains("src=") && !html.contains("@import") && !html.contains("url("));
        for part in ["heat-map", "dendrogram", "map-tsne", "importance", "legend", "Where this comes from"] {
            assert!(html.contains(part), "{part}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        let names = ["a", "b"].map(String::from).into();
        let matrix = Matrix::new(names, |row, column| if row == column { 4.0 } else { 1.0 });
        let html = Report::of("Two", "", matrix, None, 3).to_html();
        assert!(
            html.contains("No clusters: 2 networks")
                && html.contains("No map by t-SNE")
                && html.contains("components are not known")
        );

        let mut families = report();
        let one = NetworkComponents { columns: vec!["Family".into()], rows: vec![vec!["x".into()]; 6] };
        families = Report::of("", "", families.matrix, Some(one), 2);
        let html = families.to_html();
        assert!(
            html.contains("at least two components")
                && html.contains("Family: x")
                && !html.contains("id=\"importance\"")
        );
    }
}
