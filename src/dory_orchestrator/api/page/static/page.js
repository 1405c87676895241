"use strict";
// What the server cannot do: open details beside the map, let ages grow, tell of a broken stream,
// and remember who decides. Without it every link is a page of its own.
(() => {
  const STILL_MS = 5000;
  const SILENT_MS = 25000;
  const details = document.getElementById("details");
  const body = document.getElementById("details-body");
  const banner = document.getElementById("stream");
  const title = document.title;
  let opener = null;
  let offsetSeconds = 0;
  let heardAt = Date.now();
  let isLost = false;
  let hiding = null;

  // Details

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    if (!details || !link || !isPlain || event.defaultPrevented) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin) return;
    if (details.contains(link) && url.pathname === "/" && !url.hash) {
      event.preventDefault();
      details.close();
    } else if (url.pathname.startsWith("/page/")) {
      event.preventDefault();
      if (!details.contains(link)) opener = link.id;
      htmx.ajax("GET", url.pathname + url.search, { target: body, swap: "innerHTML" });
    }
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== body) return;
    if (!details.open) details.showModal();
    details.scrollTop = 0;
    const by = body.querySelector("input[name=by]");
    if (by && !by.value) by.value = remembered() || "";
    const first = body.querySelector("[role=alert]") ? null : body.querySelector("form.decide input:not([type=hidden]), form.decide select");
    (first || document.getElementById("details-title")).focus();
  });

  document.addEventListener("submit", (event) => {
    const by = event.target.querySelector("input[name=by]");
    if (by) remember(by.value);
  });

  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, () => tell("The service does not answer: this could not be shown.", true));
  }

  if (details) {
    // What opened it may have been drawn anew since.
    details.addEventListener("close", () => document.getElementById(opener)?.focus());
    details.addEventListener("click", (event) => {
      if (event.target === details) details.close();
    });
  }

  function remembered() {
    try {
      return sessionStorage.getItem("dory-by");
    } catch {
      return null;
    }
  }

  function remember(by) {
    try {
      sessionStorage.setItem("dory-by", by);
    } catch {
      // A browser that keeps nothing: it is asked for again.
    }
  }

  // The stream

  document.addEventListener("htmx:sseOpen", (event) => {
    event.detail.source.addEventListener("alive", (message) => {
      heardAt = Date.now();
      offsetSeconds = Number(message.data) - heardAt / 1000;
      if (isLost) found();
    });
  });
  document.addEventListener("htmx:sseError", lost);
  document.addEventListener("htmx:sseMessage", tone);

  function lost() {
    if (isLost || !banner) return;
    isLost = true;
    const at = new Date(Date.now() + offsetSeconds * 1000).toISOString().slice(11, 19);
    tell(`The connection broke at ${at} UTC: what is below is older. Trying again.`, true);
    tone();
  }

  function found() {
    isLost = false;
    tell("The connection is back: what is below is new again.", false);
    tone();
  }

  function tell(text, stays) {
    if (!banner) return;
    clearTimeout(hiding);
    banner.textContent = text;
    banner.classList.toggle("broken", stays);
    banner.hidden = false;
    document.documentElement.classList.toggle("stale", isLost);
    if (!stays) hiding = setTimeout(() => (banner.hidden = true), STILL_MS);
  }

  function tone() {
    const is = document.querySelector("#sentence [data-tone]")?.dataset.tone;
    const mark = isLost ? "… " : { trouble: "✖ ", notice: "! " }[is] || "";
    if (banner) document.title = mark + title;
  }

  // Ages

  function words(seconds) {
    const value = Math.max(seconds, 0);
    if (value < 10) return `${value.toFixed(1)} s`;
    if (value < 120) return `${value.toFixed(0)} s`;
    if (value < 7200) return `${(value / 60).toFixed(0)} min`;
    return value < 172800 ? `${(value / 3600).toFixed(0)} h` : `${(value / 86400).toFixed(0)} d`;
  }

  setInterval(() => {
    if (banner && !isLost && Date.now() - heardAt > SILENT_MS) lost();
    if (document.hidden) return;
    const now = Date.now() / 1000 + offsetSeconds;
    for (const age of document.querySelectorAll(".age")) {
      const text = words(now - Number(age.dataset.at));
      if (age.firstChild.data !== text) age.firstChild.data = text;
    }
  }, 1000);
  tone();
})();
