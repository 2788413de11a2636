// Fresh figures of memory and CPU, while the page is looked at.
const cards = [...document.querySelectorAll("[data-usage]")];

async function refresh() {
  if (document.hidden) return;
  for (const card of cards) {
    const response = await fetch(card.dataset.usage, { headers: { Accept: "application/json" } }).catch(() => null);
    if (!response || !response.ok) continue;
    const usage = await response.json();
    const memory = card.querySelector("[data-memory]");
    if (memory) memory.textContent = usage.memory;
    const cpu = card.querySelector("[data-cpu]");
    if (cpu) cpu.textContent = usage.cpu;
    const bar = card.querySelector("progress");
    if (bar) bar.value = usage.percent;
  }
}

if (cards.length) setInterval(refresh, 10000);
