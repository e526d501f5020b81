//! The table as a picture: a bar for each way, as long as its ratio; a line where the goal is.

use std::path::Path;

use plotters::prelude::*;

use crate::rows::Row;

const WIDTH: i32 = 960;
const LEFT: i32 = 380;
/// Where the ways are named.
const WAYS: i32 = 240;
const LINE: i32 = 22;
/// Where longer bars are cut off: what matters is near 1.
const LONGEST: f64 = 4.0;

pub(crate) fn draw(path: &Path, rows: &[Row]) {
    let bars: usize = rows.iter().map(|row| row.figures.len() + 1).sum();
    let height = LINE * (i32::try_from(bars).unwrap() + 2);
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let text = |text: String, x, y| {
        let font = ("sans-serif", 14).into_font();
        area.draw(&Text::new(text, (x, y), font)).unwrap();
    };
    let line = |at: f64, y: i32, down: i32, color: RGBColor| {
        let ends = [(x_of(at), y), (x_of(at), y + down)];
        area.draw(&PathElement::new(ends.to_vec(), color.stroke_width(2)))
            .unwrap();
    };
    text(
        "time, as a ratio to the first way of each row; red: to reach".to_owned(),
        8,
        6,
    );
    let mut y = LINE;
    for row in rows {
        y += LINE;
        text(row.name.to_owned(), 8, y);
        for figure in &row.figures {
            let color = match figure.way {
                _ if std::ptr::eq(figure, &row.figures[0]) => RGBColor(190, 190, 190),
                "posy" => RGBColor(150, 170, 200),
                _ => RGBColor(70, 140, 90),
            };
            let bar = [(LEFT, y + 2), (x_of(figure.ratio), y + LINE - 5)];
            area.draw(&Rectangle::new(bar, color.filled())).unwrap();
            text(figure.way.to_owned(), WAYS, y);
            text(format!("{:.2}", figure.ratio), x_of(figure.ratio) + 6, y);
            if let Some((_, goal)) = row.goals.iter().find(|(way, _)| *way == figure.way) {
                line(*goal, y, LINE - 3, RED);
            }
            y += LINE;
        }
    }
    line(1.0, LINE, y - LINE, RGBColor(120, 120, 120));
    area.present().unwrap();
}

#[allow(clippy::cast_possible_truncation)]
fn x_of(ratio: f64) -> i32 {
    LEFT + (ratio.min(LONGEST) / LONGEST * f64::from(WIDTH - LEFT - 60)) as i32
}
