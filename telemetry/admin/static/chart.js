"use strict";
// The latency chart: percentiles of one slice of time after another as lines, one dot a request, failed ones as crosses, over a
// logarithmic scale. Without uPlot the server's drawing stays.
window.telemetryChart = (() => {
  const REACH_PX = 24;
  const MIN = 60, HOUR = 3600, DAY = 86400;
  const STEPS_S = [ // of the time axis; by those of uPlot there is nothing between one minute and five
    ...[1, 2, 5, 10, 15, 30], ...[1, 2, 3, 5, 10, 15, 20, 30].map((each) => each * MIN),
    ...[1, 2, 3, 4, 6, 8, 12].map((each) => each * HOUR), ...[1, 2, 7, 14, 30].map((each) => each * DAY),
  ];
  const LINES = [
    ["p50_ms", "--secondary", 1.5],
    ["p95_ms", "--accent", 2],
    ["p99_ms", "--accent", 1],
  ];
  const box = document.getElementById("chart");
  const LEAST_MS = Number(box?.dataset.leastMs); // as the server's drawing has it
  const GAP_S = Number(box?.dataset.gapS); // lines end where nothing was asked for so long
  const said = document.getElementById("under-cursor");
  let plot = null;
  let body = null;
  let fetching = null;
  let walked = null; // the dot that was reached by key, by its place

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const threshold = (name) => Number(box.dataset[name]);

  const shown = (ms) => Math.max(ms, LEAST_MS);

  function decades() {
    const least = [...body.duration_ms, ...body.slices.p50_ms].reduce((low, ms) => Math.min(low, shown(ms)), threshold("goodMs"));
    const most = [...body.duration_ms, ...body.slices.p99_ms].reduce((high, ms) => Math.max(high, ms), threshold("poorMs"));
    return [10 ** Math.floor(Math.log10(least)), 10 ** Math.ceil(Math.log10(most * 1.05))];
  }

  const unit = (ms) => (ms < 999.5 ? [ms, "ms"] : [ms / 1000, "s"]);
  const scaleSaid = (ms) => unit(ms).join(" ");

  function milliseconds(ms) {
    const [value, name] = unit(ms);
    const decimals = [0.0995, 9.995, 99.95].filter((limit) => value < limit).length;
    return `${value.toFixed(decimals)} ${name}`; // as the tables have it
  }

  const isOfLastDay = (seconds) => Math.floor(seconds / DAY) === Math.floor(body.end / DAY);

  /** Return a time, with the seconds where the `span` is short, and with its day where that is not the day of the newest. */
  function clock(seconds, span) {
    const when = new Date(seconds * 1000);
    const day = when.toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" });
    if (span > 2 * DAY) return day;
    const style = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC" }; // as the tables have it
    if (span < 600) style.second = "2-digit";
    const time = when.toLocaleTimeString("en", style);
    return isOfLastDay(seconds) ? time : `${day} ${time}`;
  }

  function drawLines(u) {
    const { ctx } = u;
    const { start, end, worker } = body.slices;
    for (const [name, hue, width] of LINES) {
      ctx.strokeStyle = colour(hue);
      ctx.lineWidth = width * devicePixelRatio;
      ctx.beginPath();
      body.slices[name].forEach((ms, at) => {
        const y = u.valToPos(shown(ms), "y", true);
        const from = u.valToPos(start[at], "x", true);
        if (at > 0 && worker[at] === worker[at - 1] && start[at] - end[at - 1] < GAP_S) ctx.lineTo(from, y);
        else ctx.moveTo(from, y);
        ctx.lineTo(u.valToPos(end[at], "x", true), y);
      });
      ctx.stroke();
    }
  }

  function draw(u) {
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
      ctx.globalAlpha = body.is_error[at] || body.duration_ms[at] >= threshold("goodMs") ? 1 : 0.4; // the slow ones stand out
      const x = u.valToPos(seconds, "x", true);
      const y = u.valToPos(shown(body.duration_ms[at]), "y", true);
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
    ctx.globalAlpha = 1;
    drawLines(u); // over the dots, of which there may be thousands
    ctx.restore();
  }

  function nearest(u) {
    const { left, top } = u.cursor;
    if (left == null || left < 0) return null;
    let found = null;
    let distance = REACH_PX ** 2;
    body.time.forEach((seconds, at) => {
      const dx = u.valToPos(seconds, "x") - left;
      const dy = u.valToPos(shown(body.duration_ms[at]), "y") - top;
      if (dx * dx + dy * dy <= distance) {
        found = at;
        distance = dx * dx + dy * dy;
      }
    });
    return found;
  }

  function sliceSaid(u) {
    const { left, top } = u.cursor;
    if (left == null || left < 0) return "";
    const seconds = u.posToVal(left, "x");
    const { start, end, count, worker } = body.slices;
    let [said, nearest] = ["", Infinity];
    for (const one of new Set(worker)) {
      const at = start.findLastIndex((from, i) => worker[i] === one && from <= seconds);
      const goesOn = worker[at + 1] === one && start[at + 1] - end[at] < GAP_S;
      if (at < 0 || seconds > (goesOn ? start[at + 1] : end[at] + 1)) continue;
      const distance = Math.min(...LINES.map(([name]) => Math.abs(u.valToPos(shown(body.slices[name][at]), "y") - top)));
      if (distance >= nearest) continue; // of several workers, the one whose line is nearest
      nearest = distance;
      const ms = LINES.map(([name]) => `${name.slice(0, 3)} ${milliseconds(body.slices[name][at])}`);
      const whose = one === null ? "" : `worker ${one}  `;
      said = `${whose}${clock(start[at], 0)}–${clock(end[at], 0)} UTC  ${ms.join("  ")}  n ${count[at].toLocaleString("en")}`;
    }
    return said;
  }

  function dotSaid(at) {
    const trace = body.trace_id[at] ? ` · trace ${body.trace_id[at].slice(0, 8)}…` : "";
    const failed = body.is_error[at] ? " · error" : "";
    const gone = body.is_kept[at] ? "" : " · not kept";
    const when = clock(body.time[at], 0);
    return `${when} UTC  ${body.routes[body.route[at]]}  ${milliseconds(body.duration_ms[at])}${failed}${trace}${gone}`;
  }

  function tell(u) {
    const at = walked ?? nearest(u);
    box.classList.toggle("over-dot", at !== null);
    if (at !== null) said.textContent = dotSaid(at);
    else said.textContent = body.time.length ? sliceSaid(u) : "no request in this time";
    u.over.setAttribute("aria-valuetext", said.textContent || "arrow keys walk the requests");
  }

  function openDot(at) {
    if (body.is_kept[at]) window.telemetryAdmin.open(`${body.trace_id[at]}-${body.span_id[at]}`);
    else window.telemetryAdmin.choose({ route: body.routes[body.route[at]] });
  }

  function walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = body.time.length - 1;
    const at = walked ?? last + 1;
    if (event.key === "Enter" && walked !== null) openDot(at);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    walked = Math.min(Math.max(to, 0), last);
    follow(plot);
  }

  /** Keep the cursor where the dot is that was reached by key. */
  function follow(u) {
    if (walked === null) tell(u);
    else u.setCursor({ left: u.valToPos(body.time[walked], "x"), top: u.valToPos(shown(body.duration_ms[walked]), "y") });
  }

  const dot = (at) => [body.trace_id[at], body.span_id[at], body.time[at], body.routes[body.route[at]]].join(" ");

  /** Let the keys reach what the pointer does: a slider over the requests, which says the one that it is at. */
  function takeKeys(over) {
    box.setAttribute("role", "group");
    const slider = { role: "slider", tabindex: 0, "aria-label": "Requests in the chart", "aria-valuenow": 0 };
    for (const [name, value] of Object.entries(slider)) over.setAttribute(name, value);
    over.addEventListener("keydown", walk);
    for (const left of ["blur", "pointermove"]) over.addEventListener(left, () => { walked = null; });
  }

  function axis(extra) {
    const stroke = () => colour("--secondary");
    const grid = { stroke: () => colour("--line"), width: 1, ...(extra.filter && { filter: extra.filter }) };
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
        axis({
          incrs: STEPS_S,
          values: (u, splits) => splits.map((at) => clock(at, body.end - body.start)),
          space: () => (isOfLastDay(body.start) ? 72 : 108), // else labels have their day
          size: 28,
        }),
        axis({
          values: (u, splits) => splits.map((ms) => (ms === null ? null : scaleSaid(ms))),
          filter: (u, splits) => splits.map((ms) => (Math.log10(ms) % 1 === 0 ? ms : null)),
          size: 56,
        }),
      ],
      series: [{}, { paths: () => null, points: { show: false } }],
      hooks: { draw: [draw], setCursor: [tell] },
    };
    plot = new uPlot(options, columns(), box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", redraw);
    let tapped = null;
    plot.over.addEventListener("click", (event) => {
      const at = nearest(plot);
      if (at === null) return;
      if (event.pointerType === "touch" && tapped !== dot(at)) {
        tapped = dot(at); // the first tap says what it is, as a mouse does that is over it
        return;
      }
      openDot(at);
    });
    takeKeys(plot.over);
  }

  const columns = () => [body.time, body.duration_ms.map(shown)];

  function redraw() {
    if (plot) plot.redraw(false, true);
  }

  /** Fetch the requests of the chosen range and route, and draw them; a failure leaves the chart as it was. */
  async function update() {
    if (!window.uPlot || !box) return;
    fetching?.abort();
    fetching = new AbortController();
    const { range, route } = document.getElementById("latency").dataset;
    const url = new URL(document.getElementById("live").dataset.timeline, location.href); // with a query of the app's own
    url.searchParams.set("range", range);
    if (route) url.searchParams.set("route", route);
    try {
      const response = await fetch(url, { signal: fetching.signal, credentials: "same-origin" });
      if (!response.ok) return;
      const newer = await response.json();
      const reached = walked === null ? null : dot(walked);
      body = newer;
      walked = reached === null ? null : body.time.findIndex((_, at) => dot(at) === reached);
      if (walked === -1) walked = null;
    } catch {
      return;
    }
    if (plot) plot.setData(columns());
    else create();
    follow(plot);
    box.dataset.points = body.time.length;
    box.dataset.slices = body.slices.count.length;
  }

  return { update, redraw };
})();
