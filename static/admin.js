// The table, live: the page is fetched again now and then, and its rows replace these, unless
// somebody is about to press one of them.
const table = document.getElementById("people");

async function refresh() {
  if (document.hidden || table.contains(document.activeElement)) return;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (!response || !response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector("#people tbody");
  if (fresh && !table.contains(document.activeElement)) table.querySelector("tbody").replaceWith(fresh);
}

setInterval(refresh, 5000);
