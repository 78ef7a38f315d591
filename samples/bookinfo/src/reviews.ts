// reviews: what readers say of a book. v1 without stars, v2 with black, v3 with red ones (from ratings).
import { address, call, json, propagated, serve } from "./service.ts";

const version = process.env["SERVICE_VERSION"] ?? "v1";
const starColor = version === "v3" ? "red" : "black";
const hasRatings = version !== "v1" || process.env["ENABLE_RATINGS"] === "true";
/** Red stars are the impatient ones: that is what the fault injection lesson is about. */
const ratingsTimeoutMs = starColor === "black" ? 10_000 : 2_500;

interface Stars {
  readonly Reviewer1?: number;
  readonly Reviewer2?: number;
}

function rating(stars: number | undefined): string {
  if (!hasRatings) return "";
  if (stars === undefined) return ', "rating": {"error": "Ratings service is currently unavailable"}';
  return `, "rating": {"stars": ${stars}, "color": "${starColor}"}`;
}

/** The body as the Java service writes it, spaces included. */
function body(id: string, stars: Stars): string {
  const review = (reviewer: string, text: string, tail: string): string =>
    `{  "reviewer": "${reviewer}",  "text": "${text}"${tail}}`;
  const first = review(
    "Reviewer1",
    "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    rating(stars.Reviewer1),
  );
  const second = review(
    "Reviewer2",
    "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    rating(stars.Reviewer2),
  );
  return `{"id": "${id}","reviews": [${first},${second}]}`;
}

async function fetchStars(id: string, headers: Readonly<Record<string, string>>): Promise<Stars> {
  const url = `http://${address("ratings")}/ratings`;
  try {
    const answer = await call(`${url}/${id}`, headers, ratingsTimeoutMs);
    if (answer.status === 200) return (JSON.parse(answer.body) as { ratings: Stars }).ratings;
    process.stdout.write(`Error: unable to contact ${url} got status of ${answer.status}\n`);
  } catch (error) {
    process.stdout.write(`Error: unable to contact ${url} got exception ${String(error)}\n`);
  }
  return {};
}

serve("reviews", async ({ url, headers }) => {
  if (url.pathname === "/health") return json(200, '{"status": "Reviews is healthy"}');
  const id = /^\/reviews\/(\d+)$/.exec(url.pathname)?.[1];
  if (id === undefined) return json(404, { error: "not found" });
  const stars = hasRatings ? await fetchStars(id, propagated(headers)) : {};
  return json(200, body(id, stars), { "x-powered-by": "Servlet/3.1", "content-language": "en-US" });
});
