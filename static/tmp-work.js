// Before a notebook is opened the browser works for a moment, which costs one visitor nothing and a crowd
// of made-up ones a lot: it looks for a number such that the SHA-256 of challenge and number begins with
// so many zero bits.
const form = document.getElementById("come");
const button = form.querySelector("button");
const note = document.getElementById("work");
const bytes = new TextEncoder();
const batch = 512;

function zeroBits(sum) {
  const view = new Uint8Array(sum);
  let zero = 0;
  for (const byte of view) {
    zero += byte ? Math.clz32(byte) - 24 : 8;
    if (byte) break;
  }
  return zero;
}

async function solve({ challenge, bits }) {
  for (let first = 0; ; first += batch) {
    const sums = await Promise.all(Array.from({ length: batch }, (_, i) => crypto.subtle.digest("SHA-256", bytes.encode(`${challenge}:${first + i}`))));
    const found = sums.findIndex((sum) => zeroBits(sum) >= bits);
    if (found >= 0) return String(first + found);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  note.hidden = false;
  note.textContent = "One moment: your browser does a little work first.";
  try {
    const response = await fetch(form.dataset.challenge, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const work = await response.json();
    form.elements.challenge.value = work.challenge;
    form.elements.answer.value = await solve(work);
    form.submit();
  } catch {
    note.textContent = "That did not work. Please try again in a moment.";
    button.disabled = false;
  }
});

// Who comes back to this page finds it as it was left.
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  button.disabled = false;
  note.hidden = true;
});
