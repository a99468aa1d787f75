// Calls of the service's plain JSON routes. Knows nothing of the page.

const KEY = "fogtune-key";

/** What the service, or the way to it, refused: `status` (0: not reached), a line for people, the field it names. */
export class Refusal extends Error {
  constructor(status, detail, field = "") {
    super(detail);
    this.status = status;
    this.field = field;
  }
}

/** The API key of this tab; it outlives neither the tab nor the browser. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

/** GET, or POST where there is a body. Returns the JSON of the answer; throws Refusal. */
export async function call(path, body) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const answer = await fetch(path, options).catch(() => {
    throw new Refusal(0, "the service cannot be reached; is it still running?");
  });
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const named = content.errors?.[0];
  throw new Refusal(answer.status, named?.detail ?? content.detail ?? `HTTP ${answer.status}`, named?.field);
}

export const taskPath = (task) => `v1/tasks/${encodeURIComponent(task)}`;
