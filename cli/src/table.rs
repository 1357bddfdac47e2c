//! Columns as wide as what is in them.

use std::fmt::{self, Formatter};

/// Spaces between two columns.
const GAP: usize = 3;

/// A table with a line of titles.
pub struct Table<const COLUMNS: usize> {
    lines: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without lines.
    pub fn new(titles: [&str; COLUMNS]) -> Self {
        Self {
            lines: vec![titles.map(str::to_owned)],
        }
    }

    /// Adds a line.
    pub fn add(&mut self, line: [String; COLUMNS]) {
        self.lines.push(line);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut widths = [0; COLUMNS];
        for line in &self.lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let mut text = String::new();
            for (width, cell) in widths.iter().zip(line) {
                text.push_str(cell);
                let gap = width.saturating_sub(cell.chars().count()).saturating_add(GAP);
                text.extend(std::iter::repeat_n(' ', gap));
            }
            f.write_str(text.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.add(["größer".into(), "1".into()]);
        table.add(["a".into(), "22".into()]);
        assert_eq!(table.to_string(), "NAME     SIZE\ngrößer   1\na        22");
    }
}
