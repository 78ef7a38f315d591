// ratings: how many stars each reviewer gave. A PUT or POST keeps new ones for a book, in memory.
import { json, serve } from "./service.ts";

const kept = new Map<number, Record<string, number>>();

serve("ratings", ({ method, url, body }) => {
  if (url.pathname === "/health") return json(200, { status: "Ratings is healthy" });
  const id = Number(/^\/ratings\/(\d+)$/.exec(url.pathname)?.[1] ?? Number.NaN);
  if (Number.isNaN(id)) return json(400, { error: "please provide numeric product ID" });
  if (method === "POST" || method === "PUT") {
    try {
      kept.set(id, JSON.parse(body) as Record<string, number>);
    } catch {
      return json(400, { error: "please provide valid ratings JSON" });
    }
  }
  return json(200, { id, ratings: kept.get(id) ?? { Reviewer1: 5, Reviewer2: 4 } });
});
