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

// Rating: a choice is sent at once. Without this script the form has a button.
const form = document.querySelector("[data-rate]");
if (form) {
  const average = document.querySelector("[data-average]");
  let before = form.querySelector("input[name=value]:checked");
  let timer = 0;
  const send = async () => {
    const chosen = form.querySelector("input[name=value]:checked");
    if (!chosen) return;
    try {
      const answer = await fetch(form.dataset.rate, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ value: Number(chosen.value) }),
      });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error);
      before = chosen;
      average.textContent = `${body.average.toFixed(1)} from ${body.count} rating${body.count === 1 ? "" : "s"}`;
    } catch (error) {
      chosen.checked = false;
      if (before) before.checked = true;
      average.textContent = `Not saved: ${error.message}`;
    }
  };
  // Arrow keys pass through the values between: what counts is where they stop.
  form.addEventListener("change", () => {
    clearTimeout(timer);
    timer = setTimeout(send, 150);
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
