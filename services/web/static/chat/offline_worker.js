// Between the browser and the server: where the server cannot be reached, a page that was kept says so. Nothing else is ever
// kept, and while the server is there, everything comes from it.

// Another number has the files kept anew: raise it when one of them changes.
const KEPT = "offline-1";
const PAGE = "/page/chat/offline.html";
const FILES = [PAGE, "/page/chat/offline.css", "/page/chat/offline.js", "/page/chat/icon.svg"];

addEventListener("install", (event) => {
  const fresh = FILES.map((path) => new Request(path, { cache: "reload" }));
  // Where a browser can be told beforehand, the page's requests do not come by here: those that it sends as it is left would
  // be lost with it.
  const mine = [{ requestMode: "navigate" }, ...FILES.map((pathname) => ({ urlPattern: { pathname } }))];
  event.addRoutes?.([{ condition: { not: { or: mine } }, source: "network" }]);
  event.waitUntil(caches.open(KEPT).then((cache) => cache.addAll(fresh)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  const forgetOlder = async () => {
    for (const name of await caches.keys()) if (name !== KEPT) await caches.delete(name);
    await clients.claim();
  };
  event.waitUntil(forgetOlder());
});

addEventListener("fetch", (event) => {
  const { mode, url } = event.request;
  const { pathname, origin } = new URL(url);
  const kept = mode === "navigate" ? PAGE : FILES.find((path) => origin === location.origin && path === pathname);
  // What this does not answer goes its usual way.
  if (kept) event.respondWith(fetch(event.request).catch(() => caches.match(kept)));
});
