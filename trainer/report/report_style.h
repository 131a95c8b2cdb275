// The look of report.html.
#pragma once

namespace fucina {

inline constexpr const char* kReportStyle = R"css(
:root { --ink:#26221d; --soft:#7d756a; --line:#e9e4db; --paper:#faf8f4; --ember:#d9480f; --steel:#2b6a99; --moss:#4d7c2f; }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif; }
main { max-width:1180px; margin:0 auto; padding:36px 24px 60px; }
header { display:flex; justify-content:space-between; align-items:flex-end; flex-wrap:wrap; gap:8px; border-bottom:2px solid var(--ink); padding-bottom:14px; margin-bottom:22px; }
h1 { font-size:27px; font-weight:650; letter-spacing:-.02em; margin:0; overflow-wrap:anywhere; }
h1 small { display:block; color:var(--ember); font-size:12px; font-weight:650; letter-spacing:.14em; text-transform:uppercase; margin-bottom:2px; }
.when { color:var(--soft); font-size:13px; }
.facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(165px,1fr)); gap:12px; margin-bottom:16px; }
.fact { background:#fff; border:1px solid var(--line); border-radius:10px; padding:11px 15px; }
.fact b { display:block; font-size:21px; font-weight:620; letter-spacing:-.01em; font-variant-numeric:tabular-nums; line-height:1.3; overflow-wrap:anywhere; }
.fact span { color:var(--soft); font-size:12.5px; }
.grid { display:grid; grid-template-columns:repeat(2,minmax(0,1fr)); gap:16px; }
.wide { grid-column:1 / -1; }
section { background:#fff; border:1px solid var(--line); border-radius:10px; padding:15px 18px 12px; }
h2 { font-size:15px; font-weight:640; margin:0 0 2px; }
section > p { color:var(--soft); font-size:13px; margin:0 0 8px; }
svg { display:block; width:100%; height:auto; }
svg .grid { stroke:#eee9e0; stroke-width:1; }
.tick { fill:#8b8377; font-size:11.5px; font-variant-numeric:tabular-nums; }
polyline { fill:none; stroke-width:2; stroke-linejoin:round; }
polyline.ember { stroke:var(--ember); } polyline.steel { stroke:var(--steel); } polyline.moss { stroke:var(--moss); }
polyline.faint { stroke:var(--ember); stroke-width:1; opacity:.28; }
polyline.mist { stroke:var(--steel); stroke-width:1; opacity:.3; }
circle.steel { fill:#fff; stroke:var(--steel); stroke-width:2; }
.legend { font-size:12.5px; color:var(--soft); padding:2px 0 2px 42px; }
.key { margin-right:18px; } .key::before { content:""; display:inline-block; width:16px; height:3px; border-radius:2px; margin-right:7px; vertical-align:middle; }
.key.ember::before { background:var(--ember); } .key.steel::before { background:var(--steel); } .key.moss::before { background:var(--moss); }
.key.faint::before { background:var(--ember); opacity:.3; } .key.mist::before { background:var(--steel); opacity:.3; }
.empty { color:var(--soft); font-style:italic; }
.sample { border-left:3px solid #f3d9c8; padding:1px 0 1px 14px; margin:12px 0; white-space:pre-wrap; overflow-wrap:anywhere; font:14.5px/1.55 Georgia,"Times New Roman",serif; }
.sample b { font-weight:700; } .sample i { display:block; font:12px system-ui,sans-serif; color:var(--soft); margin-bottom:2px; }
table { border-collapse:collapse; font-size:13.5px; } td { padding:3px 22px 3px 0; vertical-align:top; overflow-wrap:anywhere; } td:first-child { color:var(--soft); white-space:nowrap; }
details summary { cursor:pointer; font-weight:640; font-size:15px; } pre { font-size:12.5px; line-height:1.5; overflow-x:auto; }
footer { color:var(--soft); font-size:12.5px; margin-top:22px; }
@media (max-width:820px) { .grid { grid-template-columns:minmax(0,1fr); } }
@media print { body { background:#fff; } section { break-inside:avoid; } }
)css";

}  // namespace fucina
