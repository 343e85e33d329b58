"""The report's one style sheet, for the screen and for A4 paper; it refers to nothing outside."""

from typing import Final

CSS: Final = """
:root { color-scheme: light; --ink: #1b2430; --soft: #5a6673; --line: #d5dbe1; --fill: #f4f6f8;
  --good: #1d6b3c; --bad: #a11d1d; --warn: #8a5a00; }
* { box-sizing: border-box; }
html { background: #e9edf0; }
body { margin: 0; color: var(--ink); line-height: 1.5; font-size: 10.5pt;
  font-family: "Source Sans 3", "Helvetica Neue", Arial, "Noto Sans", "Noto Sans CJK SC",
    "PingFang SC", "Microsoft YaHei", "Source Han Sans SC", sans-serif; }
article { background: #fff; max-width: 210mm; margin: 8mm auto; padding: 18mm 18mm 20mm;
  box-shadow: 0 1px 4px rgba(0, 0, 0, 0.15); }
h1 { font-size: 21pt; line-height: 1.2; margin: 0 0 2mm; font-weight: 650;
  overflow-wrap: anywhere; }
h2 { font-size: 13.5pt; margin: 9mm 0 2.5mm; padding-bottom: 1.2mm;
  border-bottom: 0.4mm solid var(--ink); display: flex; justify-content: space-between;
  align-items: baseline; gap: 4mm; break-after: avoid; }
h2 small { font-size: 8.5pt; font-weight: 400; color: var(--soft); white-space: nowrap; }
h3 { font-size: 11pt; margin: 5mm 0 1.5mm; break-after: avoid; }
p { margin: 0 0 2.2mm; } ul { margin: 0 0 2.5mm; padding-left: 5.5mm; } li { margin: 0 0 1mm; }
.lead { color: var(--soft); font-size: 11pt; margin-bottom: 5mm; }
.made, .note { color: var(--soft); font-size: 9pt; }
.verdict { border: 0.5mm solid var(--good); border-left-width: 2.5mm; padding: 3mm 4mm;
  margin: 4mm 0 5mm; break-inside: avoid; }
.verdict strong { display: block; font-size: 13pt; color: var(--good); margin-bottom: 1mm; }
.verdict.failed { border-color: var(--bad); background: #fdf1f1; }
.verdict.failed strong { color: var(--bad); }
.verdict p:last-child { margin: 0; overflow-wrap: anywhere; }
.warn { border-left: 1.2mm solid var(--warn); padding: 1.5mm 3mm; background: #fdf7e9;
  margin: 0 0 3mm; break-inside: avoid; }
.unverified { border-left: 1.2mm solid var(--bad); padding: 1.5mm 3mm; background: #fdf1f1;
  color: var(--bad); font-weight: 600; margin: 0 0 3mm; break-inside: avoid; }
.headline { display: flex; gap: 4mm; margin: 0 0 4mm; break-inside: avoid; }
.headline div { flex: 1; background: var(--fill); border: 0.25mm solid var(--line);
  padding: 2.5mm 3.5mm; }
.headline span { display: block; color: var(--soft); font-size: 9pt; }
.headline b { font-size: 15pt; font-weight: 650; }
nav ol { columns: 2; column-gap: 8mm; margin: 0 0 2mm; padding-left: 6mm; font-size: 9.5pt; }
nav a { color: inherit; text-decoration: none; }
table { border-collapse: collapse; width: 100%; margin: 0 0 4mm; font-size: 9.3pt; }
thead { display: table-header-group; } tr { break-inside: avoid; }
th, td { text-align: left; vertical-align: top; padding: 1.1mm 2mm;
  border-bottom: 0.2mm solid var(--line); }
thead th { background: var(--fill); border-bottom: 0.4mm solid var(--ink); font-weight: 600; }
.facts th { width: 34%; font-weight: 500; color: var(--soft); }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right;
  font-variant-numeric: tabular-nums; }
.checks td { overflow-wrap: anywhere; } .checks td:first-child { white-space: nowrap; }
.checks td:nth-child(3) { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: 7.6pt; overflow-wrap: anywhere; min-width: 38mm; }
.wide td:first-child { width: 45%; }
code { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 8pt;
  overflow-wrap: anywhere; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 700; }
.gone { color: var(--warn); font-weight: 600; }
dl { margin: 0; } dt { font-weight: 600; margin-top: 1.8mm; break-after: avoid; }
dd { margin: 0 0 1mm; break-inside: avoid; }
@page { size: A4; margin: 18mm 16mm 18mm; }
@media print {
  html { background: #fff; } body { font-size: 9.8pt; }
  article { max-width: none; margin: 0; padding: 0; box-shadow: none; }
  article + article { break-before: page; }
  .verdict, .warn, .unverified, .headline div, thead th {
    print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
