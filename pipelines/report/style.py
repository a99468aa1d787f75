"""The page's style sheet. Series colours are told apart in both themes and by colour-blind readers."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --line: #e3e2dd; --grid: #ecebe7; --text: #16181c; --soft: #5b5f66;
  --accent: #2a6fbf; --chip: #eef0f3; --mark: #fdf3d7;
  --good: #12733f; --bad: #b42b2b; --warn: #8a5a00; --busy: #1f5fa8;
  --c0: #2a78d6; --c1: #d9730d; --c2: #189466; --c3: #8451c9;
  --c4: #c9447f; --c5: #8a7a00; --c6: #0e8fa3; --c7: #6b6f76;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --line: #32353a; --grid: #2a2d31; --text: #eceded; --soft: #a3a8b0;
    --accent: #7ab3f0; --chip: #2a2d32; --mark: #3a3320;
    --good: #5fc98c; --bad: #f08080; --warn: #e5b657; --busy: #7ab3f0;
    --c0: #5a9fec; --c1: #f0964a; --c2: #45be8e; --c3: #b18cf0;
    --c4: #ee7dab; --c5: #cbb93c; --c6: #4cc3d6; --c7: #9aa0a8;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 22px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; }
h3 { font-size: 14px; margin: 0; overflow-wrap: anywhere; }
p { margin: 6px 0; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
.status { display: inline-block; font-size: 13px; font-weight: 600; padding: 1px 9px; border: 1px solid;
  border-radius: 99px; vertical-align: 3px; margin-left: 8px; white-space: nowrap; }
.completed { color: var(--good); } .running { color: var(--busy); } .stopped { color: var(--warn); }
.failed { color: var(--bad); }
.problem { border-left: 3px solid var(--bad); background: var(--card); padding: 8px 14px; margin: 16px 0;
  overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 158px), 1fr)); gap: 10px;
  margin: 14px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 10px 14px; min-width: 0; }
.tile .name { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tile .number { font-size: 22px; font-weight: 600; line-height: 1.3; }
.tile .detail { color: var(--soft); font-size: 12.5px; line-height: 1.4; }
.tasks { grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); }
.tasks .number { font-size: 28px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 14px; }
.card { padding: 12px 14px; min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 4px 0 0; padding: 0; list-style: none;
  font-size: 12.5px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend svg { flex: none; }
.axis { display: inline-flex; flex-wrap: wrap; gap: 2px; border: 1px solid var(--line); border-radius: 8px;
  padding: 2px; margin: 0 0 12px; background: var(--card); font-size: 13px; }
.axis legend { float: left; padding: 3px 8px; color: var(--soft); }
.axis label { padding: 3px 10px; border-radius: 6px; cursor: pointer; }
.axis input { position: absolute; opacity: 0; }
.axis label:has(:checked) { background: var(--accent); color: var(--card); font-weight: 600; }
.axis label:has(:focus-visible) { outline: 2px solid var(--accent); outline-offset: 1px; }
.tree { display: grid; grid-template-columns: minmax(0, auto) minmax(0, 1fr); gap: 14px; }
@media (max-width: 860px) { .tree { grid-template-columns: minmax(0, 1fr); } }
.card + .tree { margin-top: 14px; }
.tree .card { max-height: 960px; overflow: auto; }
.tree svg text { font-size: 12px; fill: var(--text); }
.tree svg .edge { stroke: var(--line); fill: none; stroke-width: 1.5; }
.tree svg .inner { fill: var(--soft); }
.tree .on circle { stroke: var(--text); stroke-width: 2.5; }
.tree svg .on text { font-weight: 700; }
.kind { padding: 10px 8px; border-radius: 6px; }
.kind + .kind { border-top: 1px solid var(--line); }
.kind.on { background: var(--mark); }
.kind .dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
.ids { max-height: 6em; overflow: auto; }
.chips { display: flex; flex-wrap: wrap; gap: 4px; margin-top: 4px; }
.chips span { background: var(--chip); border-radius: 5px; padding: 0 7px; font-size: 12.5px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 10px 0; padding: 0 14px; }
details > div, details > pre { margin: 0 0 12px; }
summary { cursor: pointer; padding: 10px 0; font-weight: 600; font-size: 14px; }
pre { font: 12.5px/1.5 ui-monospace, monospace; overflow-x: auto; }
"""
