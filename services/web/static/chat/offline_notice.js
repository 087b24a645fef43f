// Has the browser keep one page, which it shows where the server cannot be reached.

const WORKER = "/page/chat/offline_worker.js";

// Over plain HTTP from another machine a browser has no workers.
if ("serviceWorker" in navigator) {
  const address = globalThis.trustedTypes?.createPolicy("offline-worker", { createScriptURL: () => WORKER }).createScriptURL("") ?? WORKER;
  navigator.serviceWorker.register(address, { scope: "/" }).catch(() => {
    // It is a browser's right to want none, in a private window say.
  });
}
