"use strict";
// The latency chart: one dot a request, failed ones as crosses, over a logarithmic scale. Without uPlot the server's drawing stays.
window.telemetryChart = (() => {
  const LEAST_MS = 0.1;
  const REACH_PX = 24;
  const box = document.getElementById("chart");
  const said = document.getElementById("under-cursor");
  let plot = null;
  let body = null;
  let fetching = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const threshold = (name) => Number(box.dataset[name]);

  function decades() {
    const least = body.duration_ms.reduce((low, ms) => Math.min(low, Math.max(ms, LEAST_MS)), threshold("goodMs"));
    const most = body.duration_ms.reduce((high, ms) => Math.max(high, ms), threshold("poorMs"));
    return [10 ** Math.floor(Math.log10(least)), 10 ** Math.ceil(Math.log10(most * 1.05))];
  }

  function milliseconds(ms) {
    if (ms >= 1000) return `${Number((ms / 1000).toPrecision(3))} s`;
    return `${Number(ms.toPrecision(3))} ms`;
  }

  function clock(seconds, span) {
    const when = new Date(seconds * 1000);
    if (span > 172800) return when.toLocaleDateString([], { month: "short", day: "numeric", timeZone: "UTC" });
    const style = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC" }; // as the tables have it
    if (span < 600) style.second = "2-digit";
    return when.toLocaleTimeString([], style);
  }

  function drawPoints(u) {
    const { ctx } = u;
    const ratio = devicePixelRatio;
    const { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left - 4 * ratio, top - 4 * ratio, width + 8 * ratio, height + 8 * ratio);
    ctx.clip();
    ctx.lineWidth = ratio;
    for (const [name, hue] of [["goodMs", "--warning"], ["poorMs", "--poor"]]) {
      const y = Math.round(u.valToPos(threshold(name), "y", true)) + 0.5;
      ctx.strokeStyle = colour(hue);
      ctx.setLineDash(name === "goodMs" ? [2 * ratio, 4 * ratio] : [6 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + width, y);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    ctx.fillStyle = colour("--accent");
    ctx.strokeStyle = colour("--poor");
    ctx.lineWidth = 2 * ratio;
    body.time.forEach((seconds, at) => {
      const x = u.valToPos(seconds, "x", true);
      const y = u.valToPos(Math.max(body.duration_ms[at], LEAST_MS), "y", true);
      const r = (body.is_error[at] ? 4 : 2) * ratio;
      ctx.beginPath();
      if (body.is_error[at]) {
        ctx.moveTo(x - r, y - r);
        ctx.lineTo(x + r, y + r);
        ctx.moveTo(x + r, y - r);
        ctx.lineTo(x - r, y + r);
        ctx.stroke();
      } else {
        ctx.arc(x, y, r, 0, 2 * Math.PI);
        ctx.fill();
      }
    });
    ctx.restore();
  }

  function nearest(u) {
    const { left, top } = u.cursor;
    if (left == null || left < 0) return null;
    let found = null;
    let distance = REACH_PX ** 2;
    body.time.forEach((seconds, at) => {
      const dx = u.valToPos(seconds, "x") - left;
      const dy = u.valToPos(Math.max(body.duration_ms[at], LEAST_MS), "y") - top;
      if (dx * dx + dy * dy <= distance) {
        found = at;
        distance = dx * dx + dy * dy;
      }
    });
    return found;
  }

  function tell(u) {
    const at = nearest(u);
    box.classList.toggle("over-dot", at !== null);
    if (at === null) {
      said.textContent = body.time.length ? "" : "no request in this time";
      return;
    }
    const trace = body.trace_id[at] ? ` · trace ${body.trace_id[at].slice(0, 8)}…` : "";
    const failed = body.is_error[at] ? " · error" : "";
    const when = clock(body.time[at], 0);
    said.textContent = `${when} UTC  ${body.routes[body.route[at]]}  ${milliseconds(body.duration_ms[at])}${failed}${trace}`;
  }

  function axis(extra) {
    const stroke = () => colour("--secondary");
    const grid = { stroke: () => colour("--line"), width: 1 };
    return { stroke, grid, ticks: { show: false }, font: "12px system-ui, sans-serif", ...extra };
  }

  function create() {
    box.replaceChildren();
    const options = {
      width: box.clientWidth,
      height: box.clientHeight,
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
      scales: {
        x: { time: true, range: () => [body.start, Math.max(body.end, body.start + 1)] },
        y: { distr: 3, range: decades },
      },
      axes: [
        axis({ values: (u, splits) => splits.map((at) => clock(at, body.end - body.start)), space: 72, size: 28 }),
        axis({
          values: (u, splits) => splits.map((ms) => (Math.log10(ms) % 1 === 0 ? milliseconds(ms) : null)),
          filter: (u, splits) => splits,
          size: 56,
        }),
      ],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [drawPoints], setCursor: [tell] },
    };
    plot = new uPlot(options, columns(), box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    plot.over.addEventListener("click", () => {
      const at = nearest(plot);
      if (at === null) return;
      const trace = body.trace_id[at];
      if (trace) location.assign(`${document.getElementById("live").dataset.requests}/${trace}`);
      else window.telemetryAdmin.choose({ route: body.routes[body.route[at]] });
    });
  }

  const columns = () => [body.time, body.duration_ms.map((ms) => Math.max(ms, LEAST_MS))];

  function redraw() {
    if (plot) plot.redraw(false, true);
  }

  /** Fetch the requests of the chosen range and route, and draw them; a failure leaves the chart as it was. */
  async function update() {
    if (!window.uPlot || !box) return;
    fetching?.abort();
    fetching = new AbortController();
    const { range, route } = document.getElementById("latency").dataset;
    const query = new URLSearchParams({ range });
    if (route) query.set("route", route);
    try {
      const url = `${document.getElementById("live").dataset.timeline}?${query}`;
      const response = await fetch(url, { signal: fetching.signal, credentials: "same-origin" });
      if (!response.ok) return;
      body = await response.json();
    } catch {
      return;
    }
    if (plot) plot.setData(columns());
    else create();
    tell(plot);
    box.dataset.points = body.time.length;
  }

  return { update, redraw };
})();
