// Modules that come when they are first wanted.

import { toast } from "./dom.js";

/** Use a module of this folder, `use(module)`; says so where it does not come, or where its use fails. */
export async function later(path, use) {
  const found = await import(path).catch(() => null);
  try {
    if (!found) throw new Error("The server does not answer.");
    await use(found);
  } catch (error) {
    toast(error.message, { isError: true });
  }
}
