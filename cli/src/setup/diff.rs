//! What will be changed, line by line, in the form of `diff -u`.

/// Lines around a change that are shown.
const AROUND: usize = 3;
/// Comparisons that are made at most; what takes more is shown as replaced altogether.
const MOST: usize = 4_000_000;

/// A line of both, of the old text, or of the new one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Kept(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

/// The changes from one text to the other, without any head; empty if there are none.
pub fn unified(before: &str, after: &str) -> String {
    let (old, new) = (lines(before), lines(after));
    let all = compare(&old, &new);
    let changed = |line: &Line<'_>| !matches!(line, Line::Kept(_));
    let near = |index: usize| {
        let window = index.saturating_sub(AROUND)..index.saturating_add(AROUND).saturating_add(1);
        all.get(window.start..window.end.min(all.len()))
            .is_some_and(|window| window.iter().any(changed))
    };
    let (mut text, mut row, mut column, mut open) = (String::new(), 1_usize, 1_usize, false);
    for (index, line) in (0_usize..).zip(&all) {
        if !near(index) {
            open = false;
        } else if !open {
            open = true;
            let hunk = (index..).map_while(|at| all.get(at).filter(|_| near(at)));
            let count = |is: fn(&Line<'_>) -> bool| hunk.clone().filter(|line| is(line)).count();
            let olds = count(|line| !matches!(line, Line::Added(_)));
            let news = count(|line| !matches!(line, Line::Removed(_)));
            text.push_str(&format!("@@ -{} +{} @@\n", span(row, olds), span(column, news)));
        }
        let (mark, line, rows, columns) = match line {
            Line::Kept(line) => (' ', line, 1, 1),
            Line::Removed(line) => ('-', line, 1, 0),
            Line::Added(line) => ('+', line, 0, 1),
        };
        (row, column) = (row.saturating_add(rows), column.saturating_add(columns));
        if open {
            text.push(mark);
            text.push_str(line.strip_suffix('\n').unwrap_or(line));
            text.push('\n');
            if !line.ends_with('\n') {
                text.push_str("\\ No newline at end of file\n");
            }
        }
    }
    text
}

/// Where a part begins, and how many lines it has.
fn span(first: usize, count: usize) -> String {
    match count {
        0 => format!("{},0", first.saturating_sub(1)),
        count => format!("{first},{count}"),
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// All lines, by a longest common subsequence of what is between a common beginning and end.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let same = |(old, new): &(&&str, &&str)| old == new;
    let head = old.iter().zip(new).take_while(same).count();
    let (start, old) = old.split_at(head);
    let new = new.get(head..).unwrap_or_default();
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, end) = old.split_at(old.len().saturating_sub(tail));
    let new = new.get(..new.len().saturating_sub(tail)).unwrap_or_default();
    let mut all: Vec<_> = start.iter().map(|line| Line::Kept(line)).collect();
    all.extend(middle(old, new));
    all.extend(end.iter().map(|line| Line::Kept(line)));
    all
}

fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    if old.len().saturating_mul(new.len()) > MOST {
        let removed = old.iter().map(|line| Line::Removed(line));
        return removed.chain(new.iter().map(|line| Line::Added(line))).collect();
    }
    // How long the longest common subsequence of what is behind a place is, for each old line and new line.
    let mut table = vec![vec![0_usize; new.len().saturating_add(1)]];
    for old in old.iter().rev() {
        let below = table.last().map(Vec::as_slice).unwrap_or_default();
        let mut row = vec![0_usize];
        for (index, line) in new.iter().enumerate().rev() {
            let at = |place: usize| below.get(place).copied().unwrap_or_default();
            let right = row.last().copied().unwrap_or_default();
            row.push(match *old == *line {
                true => at(index.saturating_add(1)).saturating_add(1),
                false => at(index).max(right),
            });
        }
        row.reverse();
        table.push(row);
    }
    table.reverse();
    let length = |old: usize, new: usize| table.get(old).and_then(|row| row.get(new)).copied();
    let (mut row, mut column, mut all) = (0_usize, 0_usize, Vec::new());
    loop {
        let (down, right) = (row.saturating_add(1), column.saturating_add(1));
        match (old.get(row), new.get(column)) {
            (Some(old), Some(new)) if old == new => {
                all.push(Line::Kept(old));
                (row, column) = (down, right);
            }
            (Some(old), new) if new.is_none() || length(down, column) >= length(row, right) => {
                all.push(Line::Removed(old));
                row = down;
            }
            (_, Some(new)) => {
                all.push(Line::Added(new));
                column = right;
            }
            _ => return all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n";
        let after = "1\n2\n3\n4\nx\n5\n6\n7\n8\n9\n10\n11\n13\n";
        let wanted =
            "@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+x\n 5\n 6\n 7\n@@ -9,5 +10,4 @@\n 9\n 10\n 11\n-12\n 13\n";
        assert_eq!(unified(before, after), wanted);
        assert_eq!(unified(before, before), "");
    }

    #[test]
    fn a_new_file_is_all_new_and_a_missing_newline_is_told() {
        assert_eq!(unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
        let told = "@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n";
        assert_eq!(unified("a", "a\n"), told);
    }

    #[test]
    fn what_differs_too_much_is_replaced_and_nothing_is_lost() {
        let before: String = (0..3000).map(|number| format!("a{number}\n")).collect();
        let after: String = (0..3000).map(|number| format!("b{number}\n")).collect();
        let shown = unified(&before, &after);
        assert_eq!(shown.lines().count(), 6001);
        assert!(shown.starts_with("@@ -1,3000 +1,3000 @@\n-a0\n-a1\n"));
    }
}
