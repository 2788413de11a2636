// Keeps a part of the page fresh: the page is fetched again, texts and bars are set in place, and
// only what changed its state is replaced. Nobody's focus, choice or typing is lost.

function fetchPage(url) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.responseType = "document";
    request.timeout = 10000;
    request.open("GET", url);
    request.setRequestHeader("Accept", "text/html");
    request.setRequestHeader("X-Carrel-Poll", "1");
    request.onload = () => resolve({ status: request.status, page: request.response });
    request.onerror = request.ontimeout = () => resolve({ status: 0, page: null });
    request.send();
  });
}

// The children of one keyed thing belong to it, not to what is around it.
const own = (root, selector) => [...root.querySelectorAll(selector)].filter((e) => e.parentElement.closest("[data-key]") === (root.dataset.key ? root : null));

function freshen(old, fresh) {
  const texts = new Map(own(fresh, "[data-text]").map((e) => [e.dataset.text, e]));
  for (const e of own(old, "[data-text]")) {
    const other = texts.get(e.dataset.text);
    if (other && e.textContent !== other.textContent) e.textContent = other.textContent;
    if (other && other.dateTime) e.dateTime = other.dateTime;
  }
  const bars = new Map(own(fresh, "[data-value]").map((e) => [e.dataset.value, e]));
  for (const e of own(old, "[data-value]")) {
    const other = bars.get(e.dataset.value);
    if (other) e.value = other.value;
  }
}

function replace(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const id = focused && focused.id;
  old.replaceWith(fresh);
  if (!focused) return;
  const again = (id && document.getElementById(id)) || fresh.querySelector("a[href], button");
  if (again) again.focus();
}

function merge(list, freshList, say) {
  const before = new Map([...list.children].map((e) => [e.dataset.key, e]));
  let place = null;
  for (const fresh of [...freshList.children]) {
    const old = before.get(fresh.dataset.key);
    before.delete(fresh.dataset.key);
    if (old && old.dataset.version === fresh.dataset.version) {
      freshen(old, fresh);
      place = old;
      continue;
    }
    const mine = document.adoptNode(fresh);
    if (old) {
      replace(old, mine);
    } else if (place) {
      place.after(mine);
    } else {
      list.prepend(mine);
    }
    place = mine;
    if (mine.dataset.say) say(mine.dataset.say);
  }
  for (const gone of before.values()) gone.remove();
}

export function live() {
  const region = document.getElementById("live");
  if (!region) return;
  const status = document.getElementById("say");
  const say = (text) => { if (status) status.textContent = text; };
  const every = 1000 * Number(region.dataset.every);
  const listOf = (root) => root.querySelector("[data-rows]") || root;
  let failures = 0;

  async function look() {
    if (document.hidden) return;
    const { status: code, page } = await fetchPage(location.href);
    if (code === 401) {
      location.reload();
      return;
    }
    const fresh = code === 200 && page && page.getElementById("live");
    failures = fresh ? 0 : failures + 1;
    if (!fresh) return;
    freshen(region, fresh);
    merge(listOf(region), listOf(fresh), say);
    const empty = region.querySelector("[data-empty]");
    const freshEmpty = fresh.querySelector("[data-empty]");
    if (empty && freshEmpty) empty.hidden = freshEmpty.hidden;
  }

  async function loop() {
    await look().catch(() => { failures += 1; });
    setTimeout(loop, every * Math.min(8, 2 ** failures));
  }

  setTimeout(loop, every);
  document.addEventListener("visibilitychange", () => { look().catch(() => {}); });
}
