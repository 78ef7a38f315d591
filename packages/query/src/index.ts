// The memoised query engine.
export { type Db, type Provenance, type Query, type QueryStats, query, Store, type Table, table } from "./store.ts";
