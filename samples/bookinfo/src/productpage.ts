// productpage: the web page, made from details and reviews. Knows its user by a signed cookie.
import { createHmac, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { renderIndex, renderProduct } from "./page.ts";
import { type Answer, address, call, json, propagated, serve } from "./service.ts";

const TIMEOUT_MS = 3_000;
/** Reviews are asked for twice before the page gives up on them. */
const REVIEW_ATTEMPTS = 2;
/** The sample keeps no secrets: the cookie only must not be changed by accident. */
const COOKIE_KEY = "bookinfo-sample";

const PRODUCTS = [
  {
    id: 0,
    title: "The Comedy of Errors",
    descriptionHtml:
      '<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Wikipedia Summary</a>: The Comedy of Errors is one of <b>William Shakespeare\'s</b> early plays. It is his shortest and one of his most farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to puns and word play.',
  },
] as const;

function sign(user: string): string {
  return createHmac("sha256", COOKIE_KEY).update(user).digest("base64url");
}

/** The user of the session cookie, if it is one of ours. */
function sessionUser(headers: IncomingHttpHeaders): string | undefined {
  const value = /(?:^|;\s*)session=([^;]+)/.exec(headers.cookie ?? "")?.[1];
  const [encoded, signature] = (value ?? "").split(".");
  if (encoded === undefined || signature === undefined) return undefined;
  const user = Buffer.from(encoded, "base64url").toString("utf8");
  const expected = sign(user);
  const isOurs = signature.length === expected.length && timingSafeEqual(Buffer.from(signature), Buffer.from(expected));
  return isOurs ? user : undefined;
}

function sessionCookie(user: string): string {
  return `session=${Buffer.from(user).toString("base64url")}.${sign(user)}; HttpOnly; Path=/`;
}

/** A service's answer, or what the page says instead. */
interface Fetched {
  readonly status: number;
  readonly value: unknown;
}

async function fetchJson(
  url: string,
  headers: Readonly<Record<string, string>>,
  attempts: number,
): Promise<Answer | undefined> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      const answer = await call(url, headers, TIMEOUT_MS);
      process.stdout.write(`GET ${url} ${answer.status} ${answer.body.length}\n`);
      if (answer.status === 200 || attempt === attempts - 1) return answer;
    } catch (error) {
      process.stdout.write(`GET ${url}: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
  return undefined;
}

async function fetchPart(
  kind: "details" | "reviews" | "ratings",
  id: number,
  headers: Readonly<Record<string, string>>,
): Promise<Fetched> {
  const answer = await fetchJson(
    `http://${address(kind)}/${kind}/${id}`,
    headers,
    kind === "reviews" ? REVIEW_ATTEMPTS : 1,
  );
  if (answer?.status === 200) return { status: 200, value: JSON.parse(answer.body) };
  return {
    status: answer === undefined ? 500 : answer.status,
    value: { error: `Sorry, product ${kind} are currently unavailable for this book.` },
  };
}

/** Headers of the calls that a request causes: what it brought along, and the user whom the cookie names. */
function outgoing(headers: IncomingHttpHeaders): Record<string, string> {
  const user = sessionUser(headers);
  const { cookie: _cookie, ...rest } = propagated(headers);
  return user === undefined ? rest : { ...rest, "end-user": user };
}

const html = (status: number, body: string): Answer => ({
  status,
  headers: { "content-type": "text/html; charset=utf-8" },
  body,
});

async function productPage(headers: IncomingHttpHeaders): Promise<Answer> {
  const [product] = PRODUCTS;
  const along = outgoing(headers);
  const details = await fetchPart("details", product.id, along);
  const reviews = await fetchPart("reviews", product.id, along);
  return html(200, renderProduct({ product, details, reviews, user: sessionUser(headers) }));
}

async function api(path: string, headers: IncomingHttpHeaders): Promise<Answer> {
  if (path === "/api/v1/products") return json(200, PRODUCTS);
  const match = /^\/api\/v1\/products\/(\d+)(?:\/(reviews|ratings))?$/.exec(path);
  if (match === null) return json(404, { error: "not found" });
  const kind = (match[2] ?? "details") as "details" | "reviews" | "ratings";
  const { status, value } = await fetchPart(kind, Number(match[1]), outgoing(headers));
  return json(status, value);
}

function backWithCookie(headers: IncomingHttpHeaders, cookie: string): Answer {
  const location = headers.referer ?? "/productpage";
  return {
    status: 302,
    headers: { location, "set-cookie": cookie, "content-type": "text/html; charset=utf-8" },
    body: `<a href="${location}">${location}</a>`,
  };
}

serve("productpage", async ({ method, url, headers, body }) => {
  const { pathname } = url;
  if (pathname === "/health")
    return { status: 200, headers: { "content-type": "text/plain" }, body: "Product page is healthy" };
  if (pathname === "/" || pathname === "/index.html")
    return html(200, renderIndex(Object.entries(headers).map(([name, value]) => `${name}: ${String(value)}`)));
  if (pathname === "/productpage") return productPage(headers);
  if (pathname === "/login" && method === "POST") {
    return backWithCookie(headers, sessionCookie(new URLSearchParams(body).get("username") ?? ""));
  }
  if (pathname === "/logout") return backWithCookie(headers, "session=; Max-Age=0; HttpOnly; Path=/");
  if (pathname.startsWith("/api/v1/products")) return api(pathname, headers);
  return json(404, { error: "not found" });
});
