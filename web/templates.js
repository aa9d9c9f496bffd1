import { api } from "../../scripts/api.js";

// The server lists templates in the order of its disk; ours are numbered to be read in theirs.
const stock = api.getWorkflowTemplates;
api.getWorkflowTemplates = async function (...given) {
  const found = await stock.apply(this, given);
  Object.values(found).forEach((names) => names.sort());
  return found;
};
