//! `bourn pack --report FILE.html`: what each tensor cost, as one page that needs nothing beside it.

use crate::report::{Report, TensorReport};
use bourn_format::{Dtype, Role};
use std::fmt::Write;

/// Widest bar, in pixels.
const BAR: f64 = 140.0;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1d2429}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #e3e8eb;white-space:nowrap}\
th{border-bottom:2px solid #9fb0b8;text-align:right}th:first-child,td:first-child{text-align:left;font-family:ui-monospace,monospace}\
svg{vertical-align:middle}.a{fill:#0b6e99}.b{fill:#c45b1a}p{max-width:48rem}";

impl Report {
    /// The page: figures of the whole image, of each role, and two tables of tensors, by loss and in the image's order.
    ///
    /// A matrix's bits per weight count its scales and padding. Relative squared error is `Σ(w − ŵ)² / Σw²`. Where a calibration
    /// run gave it, the output error is the same of the matrix's outputs, `Σ‖(W − Ŵ)x‖² / Σ‖Wx‖²`.
    pub fn to_html(&self, title: &str) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_html(&mut page, title);
        page
    }

    fn write_html(&self, page: &mut String, title: &str) -> std::fmt::Result {
        let title = escaped(title);
        write!(page, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>")?;
        writeln!(page, "<h1>{title}</h1>")?;
        writeln!(
            page,
            "<p>{:.1} million weights in {:.1} MB; a token reads {:.1} MB. Squared error of the quantized body: {:.5} of its weights.</p>",
            self.parameters as f64 / 1e6,
            self.file_bytes as f64 / 1e6,
            self.bytes_per_token as f64 / 1e6,
            self.body_error(),
        )?;
        writeln!(
            page,
            "<p>Bits per weight count scales and padding. Relative error: squared error of the weights over their squares. Output error, \
             where a calibration run was made: the same of the matrix's outputs on the calibration text.</p>"
        )?;
        self.roles(page)?;
        let mut lossy: Vec<&TensorReport> = self.tensors.iter().filter(|t| cost(t) > 0.0).collect();
        lossy.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
        if !lossy.is_empty() {
            writeln!(page, "<h2>Tensors by loss</h2>")?;
            self.table(page, &lossy)?;
        }
        writeln!(page, "<h2>Tensors in the image's order</h2>")?;
        self.table(page, &self.tensors.iter().collect::<Vec<_>>())?;
        writeln!(page, "</html>")
    }

    /// One line for each role and type: how many, bytes, and the error over all of them.
    fn roles(&self, page: &mut String) -> std::fmt::Result {
        struct Sum {
            role: Role,
            dtype: Dtype,
            n: usize,
            bytes: u64,
            weights: usize,
            error: f64,
            energy: f64,
        }
        let mut sums: Vec<Sum> = Vec::new();
        for t in &self.tensors {
            let at = sums.iter().position(|s| (s.role, s.dtype) == (t.role, t.dtype)).unwrap_or(sums.len());
            if at == sums.len() {
                sums.push(Sum { role: t.role, dtype: t.dtype, n: 0, bytes: 0, weights: 0, error: 0.0, energy: 0.0 });
            }
            let sum = &mut sums[at];
            sum.n += 1;
            sum.bytes += t.bytes;
            sum.weights += t.rows * t.cols;
            sum.error += t.squared_error;
            sum.energy += t.energy;
        }
        sums.sort_by_key(|s| std::cmp::Reverse(s.bytes));
        let most = sums.first().map_or(1, |s| s.bytes.max(1)) as f64;
        writeln!(
            page,
            "<h2>By role</h2><table><tr><th>role<th>type<th>tensors<th>MB<th><th>bits per weight<th>relative error</tr>"
        )?;
        for s in sums {
            writeln!(
                page,
                "<tr><td>{:?}<td>{}<td>{}<td>{:.3}<td>{}<td>{:.2}<td>{}</tr>",
                s.role,
                s.dtype.name(),
                s.n,
                s.bytes as f64 / 1e6,
                bar("a", s.bytes as f64 / most),
                bits(s.bytes, s.weights),
                share(if s.energy > 0.0 { s.error / s.energy } else { 0.0 }),
            )?;
        }
        writeln!(page, "</table>")
    }

    fn table(&self, page: &mut String, tensors: &[&TensorReport]) -> std::fmt::Result {
        let calibrated = tensors.iter().any(|t| t.relative_output_error().is_some());
        let worst = tensors.iter().map(|t| cost(t)).fold(f64::MIN_POSITIVE, f64::max);
        write!(page, "<table><tr><th>tensor<th>type<th>shape<th>bytes<th>bits per weight<th>relative error")?;
        writeln!(page, "{}<th></tr>", if calibrated { "<th>output error" } else { "" })?;
        for t in tensors {
            write!(
                page,
                "<tr><td>{}<td>{}{}<td>{} × {}<td>{}<td>{:.2}<td>{}",
                escaped(&t.name),
                t.dtype.name(),
                if t.transferred { ", as it was" } else { "" },
                t.rows,
                t.cols,
                t.bytes,
                bits(t.bytes, t.rows * t.cols),
                share(t.relative_error()),
            )?;
            if calibrated {
                write!(page, "<td>{}", t.relative_output_error().map_or_else(|| "–".to_owned(), share))?;
            }
            writeln!(page, "<td>{}</tr>", bar("b", cost(t) / worst))?;
        }
        writeln!(page, "</table>")
    }
}

/// What tensors are sorted by: the error of the outputs where it is known, else of the weights.
fn cost(t: &TensorReport) -> f64 {
    t.relative_output_error().unwrap_or_else(|| t.relative_error())
}

fn bits(bytes: u64, weights: usize) -> f64 {
    8.0 * bytes as f64 / weights.max(1) as f64
}

fn share(x: f64) -> String {
    if x == 0.0 { "0".to_owned() } else { format!("{x:.6}") }
}

fn bar(class: &str, share: f64) -> String {
    let width = BAR * share.clamp(0.0, 1.0);
    format!("<svg width=\"{BAR}\" height=\"10\"><rect class=\"{class}\" width=\"{width:.1}\" height=\"10\" rx=\"1\"/></svg>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
