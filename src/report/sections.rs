//! Pages about other things than a matrix, such as a training: facts, figures, tables and text, one section below the other.

use super::Figure;
use super::figure::escape;
use super::page::{document, scrolled, section};

/// A page: one HTML file that loads nothing and runs nothing.
#[derive(Debug, Clone)]
pub struct Page {
    /// Above everything.
    pub title: String,
    /// Where its content comes from.
    pub source: String,
    /// From top to bottom.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Debug, Clone)]
pub struct Section {
    /// Above it.
    pub title: String,
    /// What its numbers mean; may be empty.
    pub note: String,
    /// From top to bottom.
    pub parts: Vec<Part>,
}

/// What a section holds.
#[derive(Debug, Clone)]
pub enum Part {
    /// Names with their values.
    Facts(Vec<(String, String)>),
    /// A drawing, and what its file is called.
    Drawing(String, Figure),
    /// Columns and rows.
    Table(Vec<String>, Vec<Vec<String>>),
    /// Text that is shown as it is.
    Text(String),
    /// Sentences.
    List(Vec<String>),
}

impl Page {
    /// The page as HTML.
    pub fn to_html(&self) -> String {
        let one = |(index, Section { title, note, parts }): (usize, &Section)| {
            let content: String = parts.iter().map(Part::to_html).collect();
            section(&format!("section-{}", index + 1), &escape(title), &escape(note), &content)
        };
        let sections: String = self.sections.iter().enumerate().map(one).collect();
        document(&self.title, &self.source, "", &sections, "")
    }

    /// Every figure by its name.
    pub fn figures(&self) -> Vec<(String, Figure)> {
        let drawn = |part: &Part| match part {
            Part::Drawing(name, figure) => Some((name.clone(), figure.clone())),
            _ => None,
        };
        self.sections.iter().flat_map(|section| &section.parts).filter_map(drawn).collect()
    }
}

impl Part {
    fn to_html(&self) -> String {
        match self {
            Self::Facts(facts) => {
                let row = |(name, value): &(String, String)| {
                    format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value))
                };
                format!("<table class=\"plain\">\n{}</table>\n", facts.iter().map(row).collect::<String>())
            }
            Self::Drawing(name, figure) => scrolled(&figure.to_html(&escape(name))),
            Self::Table(head, rows) => {
                let head: String = head.iter().map(|cell| format!("<th>{}</th>", escape(cell))).collect();
                let rows: String = rows.iter().map(|cells| row(cells)).collect();
                scrolled(&format!("<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"))
            }
            Self::Text(text) => scrolled(&format!("<pre>{}</pre>", escape(text))),
            Self::List(sentences) => {
                let items: String =
                    sentences.iter().map(|sentence| format!("<li>{}</li>\n", escape(sentence))).collect();
                format!("<ul>\n{items}</ul>\n")
            }
        }
    }
}

/// A row of a table; numbers stand at the right.
fn row(cells: &[String]) -> String {
    let is_number = |cell: &str| cell.starts_with(|letter: char| letter.is_ascii_digit() || letter == '-');
    let cell = |cell: &String| {
        let class = if is_number(cell) { " class=\"number\"" } else { "" };
        format!("<td{class}>{}</td>", escape(cell))
    };
    format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_content_is_read_as_html_and_nothing_is_loaded() {
        let odd = || "<b>&\"".to_owned();
        let parts = vec![
            Part::Facts(vec![(odd(), odd())]),
            Part::Drawing("curves".into(), Figure::new(odd(), 10.0, 10.0)),
            Part::Table(vec![odd()], vec![vec![odd(), "0.5".into()]]),
            Part::Text(odd()),
            Part::List(vec![odd()]),
        ];
        let page = Page { title: odd(), source: odd(), sections: vec![Section { title: odd(), note: odd(), parts }] };
        let html = page.to_html();
        assert!(!html.contains("<b>") && html.contains("<td class=\"number\">0.5</td>"), "{html}");
        assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("url("), "{html}");
        assert_eq!(page.figures().len(), 1);
    }
}
