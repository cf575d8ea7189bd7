"use strict";
// Keeps the pages fresh, and their state in the URL. What they show is rendered by the server; htmx morphs it in.
window.telemetryAdmin = (() => {
  const EVERY_MS = 2000;
  const SLOWEST_MS = 60000;
  const PAUSE_RATIO = 4; // a page that takes long is asked for less often, so that it costs a fifth of the time at most
  const LEADER_MS = 1000;
  const COPIED_MS = 2000;
  const AIM_MS = 2000; // who moves the pointer over rows is about to press one of them
  const READ_MS = 60000; // or reads them; after that the pointer was left there
  const WALK_MS = 10000; // as who has walked them by key is
  const ELSEWHERE = "another page"; // as where one is led to a sign-in
  const PAUSED = "telemetry-paused"; // kept for the tab
  const live = document.getElementById("live"); // not on the page of one request, which does not change
  const pulse = document.getElementById("pulse");
  const word = document.getElementById("pulse-word");
  const announcer = document.getElementById("announcer");
  const pauseButton = document.getElementById("pause");
  const retryButton = document.getElementById("retry");
  const help = document.getElementById("help");
  let paused = stored(PAUSED) ?? false;
  let heldBy = "";
  let failures = 0;
  let refusedWith = 0;
  let timer = 0;
  let dueAt = 0;
  let freshAt = performance.now();
  let tookMs = 0;
  let busy = false;
  let again = false;
  let wanted = false; // what is under way, by the reader
  let answered = false;

  /** Return what is kept for the tab under `name`; nothing where the browser keeps nothing. */
  function stored(name) {
    try {
      return JSON.parse(sessionStorage.getItem(name));
    } catch {
      return null;
    }
  }

  function store(name, value) {
    try {
      sessionStorage.setItem(name, JSON.stringify(value));
    } catch {
      // the next page begins without it
    }
  }

  // -- the refresh ----------------------------------------------------------------------------------------------------

  function seconds(ms) {
    return `${Math.max(0, Math.round(ms / 1000))} s`;
  }

  /** Return of when the figures on the page are, by the server's clock, as the tables write a time. */
  const asOf = () => new Date(Number(document.getElementById("as-of").value)).toISOString();

  const isSignedOut = () => failures > 0 && [401, 403, ELSEWHERE].includes(refusedWith);

  function show() {
    if (!live) return;
    const now = performance.now();
    let [kind, what, when] = ["live", "live", `${seconds(now - freshAt)} ago`];
    if (paused) kind = what = "paused";
    else if (failures) {
      what = refusedWith ? `the server answers with ${refusedWith}` : "no answer from the server";
      if (isSignedOut()) what += ": sign in again";
      kind = "away";
      when = `figures of ${asOf().slice(11, 19)} UTC`;
      if (!isSignedOut()) when += ` · again in ${seconds(dueAt - now)}`;
    } else if (heldBy) [kind, what, when] = ["paused", "held", heldBy];
    pulse.dataset.pulse = kind;
    if (kind !== "away" && document.activeElement === retryButton) pauseButton.focus();
    retryButton.hidden = kind !== "away";
    retryButton.textContent = isSignedOut() ? "Reload" : "Try now";
    if (announcer.textContent !== what) announcer.textContent = what; // once, not with each second
    const said = `${what} · ${when}`;
    if (word.textContent !== said) word.textContent = pulse.title = said; // it may be cut
  }

  function schedule() {
    clearTimeout(timer);
    if (!live || paused || document.hidden || isSignedOut()) return;
    const wait = Math.min(SLOWEST_MS, Math.max(EVERY_MS * 2 ** failures, PAUSE_RATIO * tookMs));
    dueAt = performance.now() + wait;
    timer = setTimeout(refresh, wait);
  }

  /**
   * Fetch the live part for the present URL and morph it in; never two at a time, and never lost while one is under way. What
   * is `asked` for is shown whatever the reader does meanwhile, and does not wait the longer the oftener it fails.
   */
  async function refresh({ asked = false } = {}) {
    if (!window.htmx || !live) return;
    wanted ||= asked;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    clearTimeout(timer);
    answered = false;
    refusedWith = 0;
    const askedAt = performance.now();
    try {
      const where = new URL(live.dataset.live, location.href); // which may have a query of the app's own
      for (const [name, value] of new URLSearchParams(location.search)) where.searchParams.set(name, value);
      await htmx.ajax("GET", where.pathname + where.search, { source: live, target: live, swap: "innerMorph" });
    } finally {
      busy = false;
      tookMs = performance.now() - askedAt;
    }
    if (answered) {
      failures = 0;
      if (!heldBy) freshAt = performance.now();
      window.telemetryChart?.update();
    } else if (!failures || !wanted) failures += 1;
    if (again) {
      again = false;
      await refresh();
      return;
    }
    wanted = false;
    schedule();
    show();
  }

  live?.addEventListener("htmx:before:response", (event) => {
    const { raw } = event.detail.ctx.response;
    if (raw.ok && !raw.redirected) return;
    refusedWith = raw.redirected ? ELSEWHERE : raw.status;
    event.preventDefault();
  });

  let movedAt = -READ_MS;
  let walkedAt = -WALK_MS;
  document.addEventListener("pointermove", (event) => {
    if (event.target.closest("#live tbody")) movedAt = performance.now();
  });

  /** Return whether rows of a table are in sight whose first one is scrolled away: it would go on pushing them down. */
  function isAmidst(table) {
    if (!table) return false;
    const [head, first, all] = [table.tHead, table.rows[1], table].map((each) => each.getBoundingClientRect());
    const top = Math.max(0, head.bottom);
    return first.bottom <= top && all.bottom > top;
  }

  /** Return why no row may change its place just now: it would be another one that is pressed, or nothing that is copied. */
  function reasonToHold() {
    if (wanted) return "";
    const selection = getSelection();
    const isInField = document.activeElement.matches("input");
    if (!isInField && String(selection) && live.contains(selection.anchorNode)) return "text is selected";
    const now = performance.now();
    const hovers = matchMedia("(hover: hover)").matches;
    if (hovers && live.querySelector("#requests tbody:hover") && now - movedAt < READ_MS) return "you are at the list";
    if (live.querySelector("#requests tbody:focus-within") && now - walkedAt < WALK_MS) return "you are at the list";
    if (isAmidst(live.querySelector("#requests table"))) return "you are down the list";
    if (hovers && live.querySelector("tbody:hover") && now - movedAt < AIM_MS) return "you are at a row";
    return "";
  }

  /** Say how many requests there are in a refresh that is held back. */
  function tellNewer(text) {
    const button = document.getElementById("newer");
    if (!button) return;
    const rows = new DOMParser().parseFromString(text, "text/html").querySelectorAll("#requests tbody tr");
    const number = [...rows].filter((row) => !document.getElementById(row.id)).length;
    button.hidden = !number;
    button.textContent = `${number} newer: show`;
  }

  // Chromium scrolls to a row that has the focus and changes its place.
  let refocused = null;
  live?.addEventListener("htmx:before:swap", (event) => {
    answered = true; // as a whole
    heldBy = reasonToHold();
    if (heldBy) {
      tellNewer(event.detail.ctx.text);
      event.preventDefault();
    } else if (document.activeElement.closest("#live tbody")) {
      refocused = document.activeElement;
      refocused.blur();
    }
  });
  live?.addEventListener("htmx:after:swap", () => {
    refocused?.focus({ preventScroll: true });
    refocused = null;
  });

  document.addEventListener("click", (event) => {
    if (event.target.id !== "newer") return;
    document.querySelector(ROWS)?.focus({ preventScroll: true }); // the button goes
    refresh({ asked: true });
  });

  retryButton.addEventListener("click", () => (isSignedOut() ? location.reload() : refresh({ asked: true })));

  function pause(isWanted) {
    paused = isWanted;
    store(PAUSED, paused);
    pauseButton.textContent = paused ? "Resume" : "Pause";
    if (paused) clearTimeout(timer);
    else begin();
    show();
  }

  function begin() {
    if (!live) return;
    if (document.hidden || paused) clearTimeout(timer);
    else if (window.htmx) refresh();
    else timer = setTimeout(reload, Number(live.dataset.reloadS) * 1000);
  }

  function reload() {
    if (help.open || document.activeElement?.id === "filter") begin();
    else location.reload();
  }

  // -- the state in the URL -------------------------------------------------------------------------------------------

  async function go(url) {
    if (!window.htmx) {
      location.assign(url);
      return;
    }
    history.pushState(null, "", url);
    await refresh({ asked: true });
  }

  /** Return the URL of the present view with `changes`; an empty value takes one away. */
  function changed(changes) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const text = String(query);
    return location.pathname + (text && `?${text}`);
  }

  const choose = (changes) => go(changed(changes));

  const stays = (event) => !(event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey); // in this tab

  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-state]");
    if (!link || !window.htmx || !stays(event)) return;
    event.preventDefault();
    const url = new URL(link.href);
    const { row } = link.dataset;
    const panel = link.closest(".panel");
    await go(url.pathname + url.search);
    if (!link.isConnected && document.activeElement === document.body) panel?.focus({ preventScroll: true });
    if (row) focusOn(document.getElementById(row));
    else if (url.hash) reveal(document.querySelector(url.hash));
  });

  const ROWS = "main table tbody tr[tabindex]";
  const rowLink = (row) => row?.querySelector(":scope > th a");

  let selected = ""; // before the mouse went down
  document.addEventListener("mousedown", () => {
    selected = String(getSelection());
  });

  // A click on a row is one on its link, with the same keys held; not where it has selected text, nor on something in it.
  document.addEventListener("click", (event) => {
    const link = rowLink(event.target.closest(ROWS));
    const now = String(getSelection());
    if (!link || event.target.closest("a, button") || (now && now !== selected)) return;
    link.dispatchEvent(new MouseEvent("click", event));
  });

  // -- to a request and back ------------------------------------------------------------------------------------------

  const OPENED = "telemetry-opened"; // kept for the tab: which request was opened, from which view, and by what in it
  const requests = document.getElementById("to-requests").pathname;
  const here = () => location.pathname + location.search;

  const keep = (opened) => store(OPENED, opened);
  const remembered = () => stored(OPENED) ?? {}; // without it Esc leads to the list
  const remember = (to, place) => keep({ to, from: here(), place });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("#live a[href]");
    if (!link?.pathname.startsWith(`${requests}/`) || !stays(event)) return;
    const href = CSS.escape(link.getAttribute("href"));
    remember(link.pathname, `#${CSS.escape(link.closest("[id]").id)} a[href="${href}"]`);
  });

  function open(requestId) {
    remember(`${requests}/${requestId}`, "#latency");
    location.assign(`${requests}/${requestId}`);
  }

  // The mark is in the history's entry: another visit to the same address has none.
  if (remembered().to === location.pathname) {
    history.replaceState({ opened: true }, "");
    keep({ ...remembered(), to: null });
  }

  // Another plan of the same request is no step on the way back.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#still a[href]");
    if (link?.pathname !== location.pathname || link.search === location.search || !stays(event)) return;
    event.preventDefault();
    if (history.state?.opened) keep({ ...remembered(), to: location.pathname });
    location.replace(link.href);
  });

  addEventListener("pageshow", (event) => {
    const [navigation] = performance.getEntriesByType("navigation");
    const { from, place } = remembered();
    if (from !== here() || !(event.persisted || navigation.type === "back_forward")) return;
    const found = document.querySelector(place);
    const row = found?.closest(ROWS);
    focusOn(rowLink(row) === found ? row : found);
  });

  addEventListener("popstate", () => {
    if (!live) return;
    document.getElementById("filter").value = new URLSearchParams(location.search).get("q") ?? "";
    refresh({ asked: true });
  });

  let typing = 0;
  document.addEventListener("input", (event) => {
    if (event.target.id !== "filter" || !window.htmx) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      history.replaceState(null, "", changed({ q: event.target.value }));
      refresh({ asked: true });
    }, 120);
  });

  document.addEventListener("submit", (event) => {
    if (event.target.id === "filter-form" && window.htmx) event.preventDefault();
  });

  // -- keys and buttons -----------------------------------------------------------------------------------------------

  function focusOn(element) {
    element?.focus({ preventScroll: true });
    element?.scrollIntoView({ block: "nearest" });
  }

  function reveal(element) {
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    element?.scrollIntoView({ block: "nearest", behavior });
  }

  function step(by) {
    const rows = [...document.querySelectorAll(ROWS)];
    const at = rows.indexOf(document.activeElement?.closest("tr"));
    focusOn(rows[Math.min(Math.max(at + by, 0), rows.length - 1)]);
  }

  function back() {
    const still = document.getElementById("still");
    if (!still) {
      if (document.querySelector("#latency, #requests")?.dataset.route) choose({ route: "" });
    } else if (history.state?.opened) history.back();
    else location.replace(still.dataset.back);
  }

  function system() {
    const card = document.getElementById("card-resources");
    if (card) focusOn(card);
    else location.assign(`${document.getElementById("to-routes").href}#card-resources`);
  }

  let ledAt = -LEADER_MS; // when `g` was pressed, which waits for a second key
  const places = {
    r: () => document.getElementById("to-routes").click(),
    q: () => document.getElementById("to-requests").click(),
    s: system,
  };

  const keys = {
    p: () => live && pause(!paused),
    "/": () => document.getElementById("filter")?.select(),
    g: () => {
      ledAt = performance.now();
    },
    "?": () => help.showModal(),
    j: () => step(1),
    k: () => step(-1),
    Escape: back,
  };

  document.addEventListener("keydown", (event) => {
    walkedAt = performance.now();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (help.open) {
      if (event.key === "?") help.close();
      return;
    }
    const field = event.target.closest("input, textarea, select");
    if (field) {
      if (event.key !== "Escape") return;
      event.preventDefault(); // Chromium would empty the field, and say so to nobody
      field.blur();
      return;
    }
    const led = performance.now() - ledAt < LEADER_MS && places[event.key];
    if (led) {
      ledAt = -LEADER_MS;
      led();
    } else if (event.key === "Enter" && event.target.matches(ROWS)) {
      rowLink(event.target)?.click();
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  pauseButton.addEventListener("click", () => pause(!paused));
  document.getElementById("help-open").addEventListener("click", () => help.showModal());

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("telemetry-theme", root.dataset.theme);
    } catch {
      // not remembered, but switched
    }
    window.telemetryChart?.redraw();
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const outcome = (await copied(document.getElementById(button.dataset.copy))) ? "Copied" : "Press Ctrl+C";
    button.textContent = document.getElementById("copied").textContent = outcome;
    setTimeout(() => {
      button.textContent = "Copy";
      document.getElementById("copied").textContent = "";
    }, COPIED_MS);
  });

  /** Copy the text of an element, and return whether that is done; if not, it is selected. */
  async function copied(element) {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(element); // where the address is no secure context, as on a home network
      const isDone = document.execCommand("copy");
      if (isDone) getSelection().removeAllRanges();
      return isDone;
    }
  }

  // On paper there is no "ago".
  addEventListener("beforeprint", () => {
    if (live) word.textContent = `as of ${asOf().slice(0, 19).replace("T", " ")} UTC`;
  });
  addEventListener("afterprint", show);

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : begin()));
  addEventListener("online", begin);

  setInterval(() => !document.hidden && show(), 1000);
  if (paused) pauseButton.textContent = "Resume";
  if (!live) pauseButton.hidden = true;
  else if (window.htmx) {
    schedule();
    show();
    window.telemetryChart?.update();
  } else begin();

  return { choose, open };
})();
