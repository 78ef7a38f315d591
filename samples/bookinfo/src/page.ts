// The HTML of the product page.

interface Review {
  readonly reviewer: string;
  readonly text: string;
  readonly rating?: { readonly stars?: number; readonly color?: string; readonly error?: string };
}

interface Part {
  readonly status: number;
  readonly value: unknown;
}

function escape(text: unknown): string {
  return String(text)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

const STYLE = `body{font-family:system-ui,sans-serif;margin:0;color:#222}nav{background:#24292f;color:#fff;padding:.8em 2em;display:flex;justify-content:space-between}
nav a,nav button{color:#fff;background:none;border:1px solid #888;border-radius:4px;padding:.2em .8em;text-decoration:none}main{padding:1em 2em;max-width:70em;margin:auto}
.columns{display:flex;gap:4em}blockquote{border-left:4px solid #ddd;margin:1em 0;padding-left:1em}.glyphicon-star::before{content:"\\2605"}.glyphicon-star-empty::before{content:"\\2606"}table{border-collapse:collapse}td{padding:.2em 1em .2em 0}`;

function layout(title: string, body: string): string {
  return `<!DOCTYPE html>
<html>
  <head>
    <title>${title}</title>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>${STYLE}</style>
  </head>
  <body>
${body}
  </body>
</html>
`;
}

function renderRating(rating: Review["rating"]): string {
  if (rating === undefined) return "";
  if (rating.stars === undefined) return `<p><i>${escape(rating.error)}</i></p>`;
  const star = (isFull: boolean): string => `<span class="glyphicon glyphicon-star${isFull ? "" : "-empty"}"></span>`;
  const stars = Array.from({ length: 5 }, (_, i) => star(i < (rating.stars ?? 0))).join("");
  return `<font color="${escape(rating.color)}">${stars}</font>`;
}

function renderReviews(part: Part): string {
  if (part.status !== 200) {
    const { error } = part.value as { error: string };
    return `<h4 class="text-center text-primary">Error fetching product reviews!</h4><p>${escape(error)}</p>`;
  }
  const { reviews } = part.value as { reviews: readonly Review[] };
  const quotes = reviews.map(
    (review) =>
      `<blockquote><p>${escape(review.text)}</p><small>${escape(review.reviewer)}</small> ${renderRating(review.rating)}</blockquote>`,
  );
  return `<h4 class="text-center text-primary">Book Reviews</h4>${quotes.join("\n")}`;
}

function renderDetails(part: Part): string {
  if (part.status !== 200) {
    const { error } = part.value as { error: string };
    return `<h4 class="text-center text-primary">Error fetching product details!</h4><p>${escape(error)}</p>`;
  }
  const details = part.value as Readonly<Record<string, unknown>>;
  const rows = ["type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"].map(
    (key) => `<tr><td><b>${key}</b></td><td>${escape(details[key])}</td></tr>`,
  );
  return `<h4 class="text-center text-primary">Book Details</h4><table>${rows.join("")}</table>`;
}

function renderUser(user: string | undefined): string {
  if (user !== undefined) return `<span>${escape(user)} (<a href="/logout">sign out</a>)</span>`;
  return `<form method="post" action="/login"><input name="username" placeholder="User Name"> <input type="password" name="passwd" placeholder="Password"> <button type="submit">Sign in</button></form>`;
}

/** The page of one book. */
export function renderProduct(parts: {
  readonly product: { readonly title: string; readonly descriptionHtml: string };
  readonly details: Part;
  readonly reviews: Part;
  readonly user: string | undefined;
}): string {
  const { product, details, reviews, user } = parts;
  return layout(
    "Simple Bookstore App",
    `<nav><b>BookInfo Sample</b>${renderUser(user)}</nav>
<main><h3 class="text-center text-primary">${escape(product.title)}</h3><p>Summary: ${product.descriptionHtml}</p>
<div class="columns"><div>${renderDetails(details)}</div><div>${renderReviews(reviews)}</div></div></main>`,
  );
}

/** The front page: where to go, and the headers that came with the request. */
export function renderIndex(headers: readonly string[]): string {
  return layout(
    "Simple Bookstore App",
    `<nav><b>BookInfo Sample</b></nav><main><h3>Hello! This is a simple bookstore application</h3><p><a href="/productpage?u=normal">Normal user</a> &middot; <a href="/productpage?u=test">Test user</a></p><pre>${headers.map(escape).join("\n")}</pre></main>`,
  );
}
