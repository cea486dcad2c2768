// What makes the pages nicer where scripts run. Nothing needs it: every form works without.
"use strict";

// Times come in UTC; the reader's own zone is only known here. The UTC form stays as the tooltip.
function localTimes(root) {
  const parts = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const ofThisYear = new Intl.DateTimeFormat(undefined, parts);
  const ofOthers = new Intl.DateTimeFormat(undefined, { year: "numeric", ...parts });
  const year = new Date().getFullYear();
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = time.textContent;
    time.textContent = (at.getFullYear() === year ? ofThisYear : ofOthers).format(at);
  }
}

// An element with data-events is replaced by what the server sends under that address, until the reader pauses it.
function follow(element) {
  const button = document.querySelector("[data-pause]");
  let source = null;
  const begin = () => {
    source = new EventSource(element.dataset.events);
    source.addEventListener("fragment", (event) => {
      // Somebody who is in the middle of it is not interrupted.
      if (element.contains(document.activeElement)) return;
      element.innerHTML = event.data;
      localTimes(element);
    });
  };
  const end = () => {
    if (source) source.close();
    source = null;
  };
  const show = () => {
    if (!button) return;
    button.hidden = false;
    button.textContent = source ? "Pause updates" : "Resume updates";
  };
  if (button) {
    button.addEventListener("click", () => {
      if (source) end();
      else begin();
      show();
    });
  }
  // A page in the background asks for nothing.
  let paused = false;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      paused = source !== null;
      end();
    } else if (paused) {
      begin();
    }
  });
  begin();
  show();
}

// A form with data-replace is sent in the background, and the element that it names is replaced by the same one in the
// answer's page, with the time it takes shown. Whatever goes wrong, the form is sent as it would be without a script.
function inPlace(form) {
  form.addEventListener("submit", async (event) => {
    const button = event.submitter;
    event.preventDefault();
    const words = button ? button.textContent : "";
    const body = new URLSearchParams(new FormData(form, button));
    if (button) {
      button.disabled = true;
      button.textContent = "Asking…";
    }
    try {
      const answer = await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector(form.dataset.replace);
      const old = document.querySelector(form.dataset.replace);
      if (!fresh || !old) throw new Error("the answer has nothing to show in place");
      localTimes(fresh);
      old.replaceWith(fresh);
      fresh.tabIndex = -1;
      fresh.focus();
      fresh.querySelectorAll("form[data-replace]").forEach(inPlace);
    } catch {
      form.submit();
      return;
    }
    if (button && button.isConnected) {
      button.disabled = false;
      button.textContent = words;
    }
  });
}

localTimes(document);
document.querySelectorAll("[data-events]").forEach(follow);
document.querySelectorAll("form[data-replace]").forEach(inPlace);
// A panel's one-time link: without a script its button is pressed by hand.
document.querySelector("form[data-submit-at-once]")?.submit();
