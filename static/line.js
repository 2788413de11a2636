// The line: asks how far it is, and leads on when it is one's turn.
const line = document.getElementById("line");
const place = document.getElementById("place");
const told = document.getElementById("told");
const wait = document.getElementById("wait");
const note = document.getElementById("note");
const said = note.textContent;

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

async function look() {
  try {
    const response = await fetch(line.dataset.status, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (response.status === 401) {
      location.reload(); // it leads to where a visit begins
      return;
    }
    if (!response.ok) throw new Error(response.status);
    const status = await response.json();
    if (status.phase !== "waiting") {
      location.reload();
      return;
    }
    put(place, String(status.place));
    told.hidden = !status.wait;
    if (status.wait) put(wait, status.wait);
    put(note, said);
  } catch {
    put(note, "The hub does not answer just now; trying again.");
  }
  setTimeout(look, 2000);
}

setTimeout(look, 1000);
