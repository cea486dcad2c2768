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

// Puts an element of a page that was answered in place of the same one here.
function replace(selector, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").querySelector(selector);
  const old = document.querySelector(selector);
  if (!fresh || !old) throw new Error("the answer has nothing to show in place");
  localTimes(fresh);
  old.replaceWith(fresh);
  fresh.querySelectorAll("form[data-replace]").forEach(inPlace);
  return fresh;
}

// Sends a form in the background, with the time it takes shown. Whatever goes wrong, it is sent as it would be without a script.
function inBackground(form, accept, show) {
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
      const fresh = await show(await fetch(form.action, { method: "POST", body, headers: { Accept: accept } }));
      fresh.tabIndex = -1;
      fresh.focus();
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

// The element that a form's data-replace names is replaced by the same one in the answer's page.
function inPlace(form) {
  inBackground(form, "text/html", async (answer) => replace(form.dataset.replace, await answer.text()));
}

// The element that a form's data-stream names is replaced again and again, by each event of the answer's stream, until that ends.
function inSteps(form) {
  inBackground(form, "text/event-stream", async (answer) => {
    if (!answer.ok) throw new Error("there is no stream");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let [rest, fresh] = ["", null];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const lines of events.map((event) => event.split("\n"))) {
        const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length > 0) fresh = replace(form.dataset.stream, data.join("\n"));
      }
    }
    if (!fresh || fresh.ariaBusy === "true") throw new Error("the stream ended too early");
    return fresh;
  });
}

localTimes(document);
document.querySelectorAll("[data-events]").forEach(follow);
document.querySelectorAll("form[data-replace]").forEach(inPlace);
document.querySelectorAll("form[data-stream]").forEach(inSteps);
// A panel's one-time link: without a script its button is pressed by hand.
document.querySelector("form[data-submit-at-once]")?.submit();
