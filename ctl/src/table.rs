//! Rows in columns, at most 100 wide. Colour only for state words, never the only carrier.

/// Widest line that is printed.
pub(crate) const WIDTH: usize = 100;

/// What a state word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    /// The text in this tone's colour, when colours are shown.
    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Warn => 33,
            Self::Bad => 31,
            Self::Plain => return text.to_owned(),
        };
        if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell(pub(crate) String, pub(crate) Tone);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), Tone::Plain)
    }
}

/// Rows under a header. Columns whose header begins with `>` are aligned to the right.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines.
    pub(crate) fn render(&self, colour: bool) -> Vec<String> {
        let right: Vec<bool> = self.header.iter().map(|h| h.starts_with('>')).collect();
        let header: Vec<Cell> = self.header.iter().map(|h| h.trim_start_matches('>').into()).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let width = |i: usize| lines().filter_map(|row| row.get(i)).map(|c| length(&c.0)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        lines().map(|row| render_row(row, &widths, &right, colour)).collect()
    }
}

fn render_row(row: &[Cell], widths: &[usize], right: &[bool], colour: bool) -> String {
    let mut line = String::new();
    let mut used = 0;
    for (i, Cell(text, tone)) in row.iter().enumerate() {
        let text = cut(text, WIDTH.saturating_sub(used));
        let pad = " ".repeat(widths[i].saturating_sub(length(&text)));
        let painted = tone.paint(&text, colour);
        line += &if right[i] { format!("{pad}{painted}  ") } else { format!("{painted}{pad}  ") };
        used += widths[i] + 2;
    }
    line.trim_end().to_owned()
}

/// Characters as a terminal shows them, near enough for names and words of ours.
pub(crate) fn length(text: &str) -> usize {
    text.chars().count()
}

/// The text, cut to `max` characters with `…`.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if length(text) <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// The text in lines of at most `max` characters, broken at spaces.
pub(crate) fn wrap(text: &str, max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && length(&line) + 1 + length(word) > max {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_colour() {
        let mut table = Table::new(&["HOST", ">N", "STATE"]);
        table.row(vec!["web1".into(), "7".into(), Cell("live".into(), Tone::Good)]);
        table.row(vec!["a".into(), "412".into(), "x".repeat(200).into()]);
        let plain = table.render(false);
        assert_eq!(plain[..2], ["HOST    N  STATE", "web1    7  live"]);
        assert_eq!(length(&plain[2]), WIDTH);
        assert!(table.render(true)[1].ends_with("\x1b[32mlive\x1b[0m"));
    }

    #[test]
    fn long_words_are_not_broken() {
        assert_eq!(wrap("aa bb cccccccc d", 5), ["aa bb", "cccccccc", "d"]);
    }
}
