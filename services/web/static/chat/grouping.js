// The groups of the list: what is pinned, the folders, and the rest by its dates.

const MONTHS = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric" });

/** Group sessions, the latest first: {kind, title, sessions} each; `kind` is "pinned", "folder" or "date". */
export function grouped(sessions, now = new Date()) {
  const pinned = sessions.filter((session) => session.pinned);
  const rest = sessions.filter((session) => !session.pinned);
  const folders = new Map();
  const dates = new Map();
  for (const session of rest) {
    const [into, title] = session.folder ? [folders, session.folder] : [dates, dateTitle(session, now)];
    into.set(title, [...(into.get(title) ?? []), session]);
  }
  const named = (kind, groups) => groups.map(([title, own]) => ({ kind, title, sessions: own }));
  return [
    ...(pinned.length ? [{ kind: "pinned", title: "Pinned", sessions: pinned }] : []),
    ...named("folder", [...folders].sort(([a], [b]) => a.localeCompare(b))),
    ...named("date", [...dates]),
  ];
}

/** "Today", "Yesterday", "Previous 7 days", "Previous 30 days", or the month. What is just beginning has no time yet. */
function dateTitle({ updated, isBegun }, now) {
  if (!updated) return isBegun ? "Today" : "Older";
  const then = new Date(updated);
  const days = Math.round((startOfDay(now) - startOfDay(then)) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days <= 7) return "Previous 7 days";
  if (days <= 30) return "Previous 30 days";
  return MONTHS.format(then);
}

const startOfDay = (time) => new Date(time.getFullYear(), time.getMonth(), time.getDate());
