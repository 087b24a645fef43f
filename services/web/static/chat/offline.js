// Looks for the server again: now and then, and when somebody asks for it.

const PAUSE = 4000;
const state = document.getElementById("state");

async function look() {
  // Any answer will do: then there is somebody, and the page can say what is wrong.
  await fetch("/health", { cache: "no-store" });
  location.reload();
}

document.getElementById("again").addEventListener("click", async () => {
  state.textContent = "Looking for the server…";
  await look().catch(() => (state.textContent = "It cannot be reached yet. The chat comes back by itself once the server does."));
});
setInterval(() => look().catch(() => {}), PAUSE);
