// The start, live: each event of the stream is one step; the last leads on.
const card = document.getElementById("pending");
const message = document.getElementById("message");
const detail = document.getElementById("detail");
const bar = document.getElementById("bar");
const percent = document.getElementById("percent");
const open = document.getElementById("open");
const steps = [...card.querySelectorAll("[data-step]")];
const words = { done: "done", now: "under way", todo: "" };

function mark(step) {
  const at = steps.findIndex((item) => item.dataset.step === step);
  if (at < 0) return;
  steps.forEach((item, i) => {
    const state = i < at ? "done" : i === at ? "now" : "todo";
    item.dataset.state = state;
    item.querySelector("[data-word]").textContent = words[state];
  });
}

function show(event) {
  const text = event.message + ".";
  if (message.textContent !== text) message.textContent = text;
  detail.textContent = event.detail || "";
  if (event.progress) {
    bar.value = event.progress;
    percent.textContent = `${event.progress}%`;
  }
  if (event.open) {
    open.href = event.open;
    open.hidden = false;
  }
  mark(event.step);
}

function follow() {
  const source = new EventSource(card.dataset.progress);
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    show(event);
    if (!event.ready && !event.failed) return;
    source.close();
    if (event.ready) steps.forEach((item) => { item.dataset.state = "done"; });
    location.replace(event.ready ? event.url : card.dataset.failed);
  };
  source.onerror = () => {
    detail.textContent = "The hub does not answer just now; trying again.";
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
  };
}

// How long it will take, where that is told: a visitor's start.
async function foretell() {
  try {
    const response = await fetch(card.dataset.status, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (response.ok) {
      const { wait } = await response.json();
      document.getElementById("told").hidden = !wait;
      if (wait) document.getElementById("wait").textContent = wait;
    }
  } catch {
    // the stream's own handler tells that the hub is away
  }
  setTimeout(foretell, 5000);
}

follow();
if (card.dataset.status) setTimeout(foretell, 5000);
