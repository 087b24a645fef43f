// The keys panel, for the master key: mint, look who uses theirs, revoke.

import { call } from "./api.js";
import { ago, copyButton, el, toast } from "./dom.js";

/** Show the keys. */
export function openKeys(body) {
  const list = el("ul", { className: "rows" });
  const name = el("input", { id: "key-name", maxLength: 200, placeholder: "Whose it will be", autocomplete: "off" });
  const problem = el("p", { className: "error", role: "alert" });
  const minted = el("div", { className: "minted", hidden: true, role: "status" });

  const mint = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const whose = name.value.trim();
      const { key } = await call("POST", "/auth/key", whose ? { name: whose } : {});
      minted.replaceChildren(el("p", {}, `The new key${whose ? ` of ${whose}` : ""}. It is shown this once:`),
        el("div", { className: "row" }, el("code", { className: "secret" }, key), copyButton("Copy the key", () => key)));
      minted.hidden = false;
      name.value = "";
      await reload();
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const revoke = async (entry) => {
    problem.textContent = "";
    try {
      await call("DELETE", `/auth/key/${encodeURIComponent(entry.id)}`);
      toast(`The key ${entry.name ?? entry.id} works no more`);
    } catch (error) {
      problem.textContent = error.message;
    }
    await reload();
  };

  async function reload() {
    const { keys } = await call("GET", "/auth/key");
    list.replaceChildren(...keys.map((entry) => row(entry, revoke)));
  }

  body.replaceChildren(
    el("form", { className: "group", onsubmit: mint },
      el("h3", {}, "A key for somebody"), el("label", { for: "key-name" }, "Name"), name, el("button", { className: "primary" }, "Make a key")),
    minted, problem, list);
  reload().catch((error) => (problem.textContent = error.message));
  return {};
}

function row(entry, revoke) {
  const used = entry.last_used ? `used ${ago(entry.last_used)}` : "never used";
  const made = entry.created ? `made ${ago(entry.created)}` : "";
  const item = el("li", {}, el("strong", {}, entry.name ?? "no name"),
    el("span", { className: "faint", title: entry.last_used ? new Date(entry.last_used).toLocaleString() : "" }, [entry.id, made, used].filter(Boolean).join(" · ")));
  if (entry.id !== "0") item.append(revokeButton(entry, revoke));
  return item;
}

/** Revoking cannot be taken back, so it takes a second click. */
function revokeButton(entry, revoke) {
  const button = el("button", { type: "button", className: "danger", "aria-label": `Revoke the key ${entry.name ?? entry.id}` }, "Revoke");
  const back = () => {
    button.classList.remove("sure");
    button.textContent = "Revoke";
  };
  button.addEventListener("click", () => {
    if (button.classList.contains("sure")) return revoke(entry);
    button.classList.add("sure");
    button.textContent = "Really revoke?";
    return setTimeout(back, 4000);
  });
  return button;
}
