//! Tables and sizes for people.

/// Rows under a header, columns as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table; a header that starts with `>` stands over a column of numbers, set to the right.
    pub(crate) fn new(header: &[&str]) -> Self {
        let right = header.iter().map(|title| title.starts_with('>')).collect();
        let titles = header.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![titles], right }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.right.len(), "a row has a cell for each column");
        self.rows.push(cells.into());
    }

    pub(crate) fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let space = " ".repeat(width - cell.chars().count());
                if *right {
                    line.push_str(&space);
                }
                line.push_str(cell);
                if !right {
                    line.push_str(&space);
                }
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A size with one decimal, or exact where it is whole.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else { return format!("{bytes} B") };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if u128::from(bytes) * 10 == tenths << shift && tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// A part of a whole in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{} %", u128::from(part) * 100 / u128::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">SIZE", "POOL"]);
        table.row(["one".to_owned(), "1 GiB".to_owned(), "default".to_owned()]);
        table.row(["another-ä".to_owned(), "512 MiB".to_owned(), "x".to_owned()]);
        assert_eq!(table.render(), "NAME          SIZE  POOL\none          1 GiB  default\nanother-ä  512 MiB  x\n");
    }

    #[test]
    fn sizes_are_exact_where_they_are_whole() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1 << 30, "1 GiB"),
            ((1 << 30) + (1 << 29), "1.5 GiB"),
            ((1 << 30) + 1, "1.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((percent(1, 3).as_str(), percent(0, 0).as_str(), percent(u64::MAX, u64::MAX).as_str()), ("33 %", "-", "100 %"));
    }
}
