"""The style sheet of the HTML report."""

STYLE = """
:root {
  --ground: #ffffff; --ink: #1d2327; --muted: #636c74; --rule: #e1e4e6;
  --panel: #f5f7f8; --link: #0b62a0; --heat: #f4b48c; --bad: #a84300; --good: #00674b;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181b; --ink: #e4e8ea; --muted: #98a2aa; --rule: #2d3439;
    --panel: #1b2125; --link: #6cb6ec; --heat: #8a4514; --bad: #f59a63; --good: #4fd0a5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 72rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Liberation Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.015em; margin: 0; }
h2 { font-size: 1.35rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 1rem; }
h3 { font-size: .95rem; margin: 0 0 .6rem; }
section { margin-top: 3.25rem; }
p { margin: 0 0 .9rem; max-width: 44rem; }
a { color: var(--link); text-underline-offset: .15em; }
.subtitle { color: var(--muted); margin: .4rem 0 1.2rem; }
nav ul {
  display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; list-style: none;
  margin: 0; padding: .7rem 0; font-size: .875rem;
  border: solid var(--rule); border-width: 1px 0;
}
nav a { text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
.caution {
  border-left: 3px solid var(--bad); background: var(--panel);
  padding: .8rem 1.1rem; margin: 1.2rem 0;
}
.small { font-size: .875rem; color: var(--muted); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr));
  gap: .9rem; margin: 0 0 1.6rem;
}
.tiles div { background: var(--panel); border-radius: .5rem; padding: 1rem 1.1rem; }
.tiles dt { font-size: .875rem; font-weight: 600; }
.tiles dd { margin: 0; font-size: .875rem; line-height: 1.45; color: var(--muted); }
.tiles strong {
  display: block; color: var(--ink); font-size: 2rem; line-height: 1.35;
  font-weight: 600; letter-spacing: -.02em; font-variant-numeric: tabular-nums;
}
.terms { margin: 1.4rem 0 0; font-size: .9rem; max-width: 52rem; }
.terms div {
  display: grid; grid-template-columns: 9.5rem 1fr; gap: 0 1rem;
  padding: .3rem 0;
}
.terms dt { font-weight: 600; }
.terms dd { margin: 0; color: var(--muted); }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table {
  border-collapse: collapse; font-size: .875rem; line-height: 1.35;
  min-width: min(100%, 30rem);
  font-variant-numeric: tabular-nums;
}
caption {
  text-align: left; padding: 0 0 .6rem; color: var(--muted); font-size: .875rem;
}
th, td { text-align: left; padding: .4rem .65rem; vertical-align: top; }
thead tr:first-child th:first-child, tbody th { padding-left: .2rem; }
caption span { display: inline-block; max-width: min(44rem, 100vw - 3.5rem); }
thead th {
  font-weight: 600; vertical-align: bottom; color: var(--muted);
  border-bottom: 1px solid var(--muted);
}
thead th.group { text-align: center; border-bottom-color: var(--rule); }
th.group, th.first, td.first { border-left: 1px solid var(--rule); }
tbody { border-bottom: 1px solid var(--rule); }
tbody th {
  font-weight: 600; white-space: nowrap;
  position: sticky; left: 0; background: var(--ground);
}
.num { text-align: right; }
td.num { white-space: nowrap; }
tr.paper th, tr.paper td {
  padding-top: 0; color: var(--muted); font-weight: 400; font-size: .8125rem;
}
tr:has(+ tr.paper) th, tr:has(+ tr.paper) td { padding-bottom: .1rem; }
td[title] { cursor: help; }
.tint {
  display: inline-block; padding: 0 .35rem; margin: 0 -.35rem; border-radius: .25rem;
  background: color-mix(in srgb, var(--heat) var(--tint), transparent);
}
td small { color: var(--muted); font-size: .75rem; margin-right: .6rem; }
table.code td {
  font: .8125rem/1.5 ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere;
}
table.code, table.code th { line-height: 1.5; }
table.code tbody { border-bottom: 0; }
table.code tbody th, table.code tbody td { padding-top: .2rem; padding-bottom: .2rem; }
figure { margin: 1.6rem 0 2.4rem; }
img { display: block; max-width: 100%; height: auto; }
figcaption {
  color: var(--muted); font-size: .875rem; max-width: 44rem; margin-top: .6rem;
}
.examples {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr));
  gap: 1rem; margin-top: 1.2rem;
}
article { background: var(--panel); border-radius: .5rem; padding: 1rem 1.1rem; }
article img { width: 100%; image-rendering: pixelated; }
.outcome { margin: .7rem 0 .3rem; font-weight: 600; font-size: .9rem; }
.good .outcome { color: var(--good); }
.bad .outcome { color: var(--bad); }
article dl { margin: 0; font-size: .8125rem; line-height: 1.5; }
article dl div { display: grid; grid-template-columns: 5.2rem 1fr; }
article dt { color: var(--muted); }
article dd { margin: 0; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.55rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .tiles div { padding: .8rem; }
  .tiles strong { font-size: 1.5rem; }
  .terms div { grid-template-columns: 1fr; }
  th, td { padding-left: .5rem; padding-right: .5rem; }
  .examples { grid-template-columns: 1fr; }
}
@media print {
  body { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; }
  section, article, figure, tbody { break-inside: avoid-page; }
}
"""
"""CSS without references to anything outside the page."""
