"use strict";

const root = document.documentElement;

// Theme: the toggle goes to the other one of what shows now.
const toggle = document.querySelector("[data-theme-toggle]");
if (toggle) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("telemetry-theme", root.dataset.theme); } catch { /* storage may be off */ }
  });
}

// A token that was refused, by a slip of a letter perhaps, stays neither in the address nor in the history.
const here = new URL(location);
if (document.querySelector("form.token") && here.searchParams.has("token")) {
  here.searchParams.delete("token");
  history.replaceState(null, "", here);
}

// `/` goes to the search, Esc leaves it.
const search = document.querySelector("[data-search]");
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio]), textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape" && event.target === search) {
    search.blur();
  }
});

// An empty library looks for videos in the background. They show by themselves, but not to somebody who types or has the focus
// somewhere: a new page would take both.
const arrived = document.querySelector("[data-arrived]");
if (arrived) {
  const EVERY_MS = 4000;
  const SLOWEST_MS = 60000;
  let wait = EVERY_MS;
  const look = async () => {
    const answer = document.hidden ? null : await fetch(location.href, { cache: "no-store" }).catch(() => ({ ok: false }));
    const page = answer?.ok ? await answer.text().catch(() => "") : "";
    if (new DOMParser().parseFromString(page, "text/html").querySelector(".card")) {
      if (search.value || document.activeElement !== document.body) arrived.hidden = false;
      else location.reload();
      return;
    }
    wait = answer && !answer.ok ? Math.min(2 * wait, SLOWEST_MS) : EVERY_MS;
    setTimeout(look, wait);
  };
  setTimeout(look, wait);
}

// Why a write was not done, and what to do. A proxy or a guest network may answer in the server's place, so not all of it is JSON.
const complaintOf = (answer, body) => {
  const status = answer ? answer.status : 0;
  const seconds = answer?.headers.get("Retry-After");
  const again = /^\d+$/.test(seconds) ? `Try again in ${seconds} s.` : "Try again in a moment.";
  if ([0, 502, 504].includes(status)) return "Not saved. The server does not answer. Try again when it runs.";
  if (status < 400) return "The answer is not the server's own. Reload the page to see what is saved.";
  if (status === 404) return "Not saved. This video is gone.";
  if (status === 429) return `Not saved. Too many changes in a short time. ${again}`;
  if (status === 503) return `Not saved. The server is busy. ${again}`;
  if (status === 507) return "Not saved. The server can't write to its disk, which may be full.";
  if (status >= 500) return "Not saved. The server failed. Its log says why.";
  if (body?.must_be) return `Not saved. The ${body.parameter} must be ${body.must_be}.`;
  return "Not saved. The server refuses this. Reload the page and try again.";
};

const write = async (method, address, content) => {
  const options = { method, headers: { "Content-Type": "application/json" }, body: content && JSON.stringify(content) };
  const answer = await fetch(address, options).catch(() => null);
  const body = await answer?.json().catch(() => null);
  return answer?.ok && body ? { body } : { complaint: complaintOf(answer, body) };
};

// Rating: a choice is sent at once. Without this script the form has a button.
const form = document.querySelector("[data-rate]");
if (form) {
  const average = document.querySelector("[data-average]");
  let before = form.querySelector("input[name=value]:checked");
  let timer = 0;
  const send = async () => {
    const chosen = form.querySelector("input[name=value]:checked");
    if (!chosen) return;
    const { body, complaint } = await write("POST", form.dataset.rate, { value: Number(chosen.value) });
    if (complaint) {
      chosen.checked = false;
      if (before) before.checked = true;
      average.textContent = complaint;
    } else {
      before = chosen;
      average.textContent = `${body.average.toFixed(1)} from ${body.count} rating${body.count === 1 ? "" : "s"}`;
    }
  };
  // Arrow keys pass through the values between: what counts is where they stop.
  form.addEventListener("change", () => {
    clearTimeout(timer);
    timer = setTimeout(send, 150);
  });
}

// Tags: added and removed in place, for a new page would stop the video. Without this script the forms are sent as they are.
const tagging = document.querySelector("[data-tags]");
if (tagging) {
  const address = tagging.dataset.tags;
  const said = document.querySelector("[data-tags-said]");
  const template = tagging.querySelector("template");
  const field = tagging.querySelector(".add [name=tag]");
  let last = Promise.resolve();

  const made = (tag) => {
    const form = document.importNode(template.content.firstElementChild, true);
    const [link, button] = form.querySelectorAll("a, button");
    form.elements.tag.value = tag;
    link.setAttribute("href", link.getAttribute("href") + encodeURIComponent(tag));
    link.querySelector("bdi").append(tag);
    button.setAttribute("aria-label", button.getAttribute("aria-label") + tag);
    return form;
  };

  const shown = () => new Map([...tagging.querySelectorAll(".tag")].map((form) => [form.elements.tag.value, form]));

  // What stays is not touched: it may be under a finger, or have the focus.
  const show = (tags) => {
    const before = shown();
    for (const [tag, form] of before) if (!tags.includes(tag)) form.remove();
    let next = template;
    for (const tag of [...tags].reverse()) {
      const form = before.get(tag) || made(tag);
      if (form.nextElementSibling !== next) next.before(form);
      next = form;
    }
  };

  const say = (text, isSeen) => {
    said.textContent = text;
    said.classList.toggle("sr", !isSeen);
    if (isSeen) said.scrollIntoView({ block: "nearest" });
  };

  const add = async (tag) => {
    const { body, complaint } = await write("POST", address, { tag });
    if (complaint) return say(complaint, true);
    const added = body.tags.find((name) => !shown().has(name));
    show(body.tags);
    if (field.value === tag) field.value = "";
    if (tagging.contains(document.activeElement)) field.focus();
    return added ? say(`Tag ${added} added.`) : say("The video has this tag already.", true);
  };

  const remove = async (tag) => {
    if (!shown().has(tag)) return; // clicked twice
    const { body, complaint } = await write("DELETE", `${address}/${encodeURIComponent(tag)}`);
    const { body: now } = complaint ? await write("GET", address) : { body };
    if (!now || now.tags.includes(tag)) return say(complaint, true); // else another window has removed it
    const hadFocus = tagging.contains(document.activeElement);
    show(now.tags);
    if (hadFocus) field.focus();
    say(`Tag ${tag} removed.`);
  };

  // One after the other, so that the list that is shown is that of the last answer.
  tagging.addEventListener("submit", (event) => {
    event.preventDefault();
    const change = event.target.matches(".add") ? add : remove;
    const tag = event.target.elements.tag.value;
    last = last.finally(() => change(tag));
  });
}

const player = document.querySelector("video");
if (player) {
  const notice = document.querySelector("[data-player-error]");
  const why = { 0: "The server does not answer.", 404: "This video is gone.", 503: "The server sends as many videos as it can. Try again in a moment." };
  let told = false; // once, also where the error is there before this script and its event comes after: a screen reader says each
  const tell = async () => {
    if (told) return;
    told = true;
    const address = player.currentSrc || player.src;
    const answer = await fetch(address, { headers: { Range: "bytes=0-0" } }).catch(() => ({ ok: false, status: 0 }));
    if (!answer.ok) notice.textContent = why[answer.status] || `The server answers ${answer.status}.`;
    notice.hidden = false;
  };
  player.addEventListener("error", tell);
  if (player.error) tell();
}
