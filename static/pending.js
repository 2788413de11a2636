// The start page, live: each event of the stream is one step; the last leads on.
const card = document.getElementById("pending");
const list = document.getElementById("steps");
const steps = new Map();

function show(step) {
  document.getElementById("message").textContent = step.place ? `${step.message}` : step.message;
  if (step.progress) document.getElementById("bar").value = step.progress;
  let item = steps.get(step.step);
  if (!item) {
    for (const other of steps.values()) other.classList.remove("now");
    item = document.createElement("li");
    item.className = "now";
    list.append(item);
    steps.set(step.step, item);
  }
  item.textContent = step.detail ? `${step.message} (${step.detail})` : step.message;
}

list.replaceChildren();
const source = new EventSource(card.dataset.progress);
source.onmessage = (event) => {
  const step = JSON.parse(event.data);
  show(step);
  if (step.ready) {
    source.close();
    location.replace(card.dataset.ready);
  } else if (step.failed) {
    source.close();
    location.replace(card.dataset.failed);
  }
};
