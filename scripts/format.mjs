// npm run format, npm run format:check: prettier, and clang-format over the C++ and CUDA sources.
import { extname, join, relative } from 'node:path'
import { bootstrap, root } from './bootstrap.mjs'
import { run, runMain } from './run.mjs'
import { listFiles } from './stamp.mjs'

const folders = ['src', 'cuda', 'test', 'benchmark']
const extensions = new Set(['.cc', '.h', '.cu', '.cuh'])

/** Formats the C++ sources, or with `check` names those that are not formatted. */
async function clangFormat(check, sources) {
  const mode = check ? ['--dry-run', '--Werror'] : ['-i']
  const { code, output } = await run(
    process.execPath,
    ['node_modules/clang-format/index.js', ...mode, '--style=file', ...sources],
    { cwd: root, quiet: true },
  )
  // Its own report quotes every line; the names are what one acts on.
  const unformatted = sources.filter((file) => output.includes(`${file}:`))
  for (const file of unformatted) console.error(`[warn] ${relative(root, file)}`)
  if (code !== 0 && unformatted.length === 0) console.error(output.trimEnd())
  return code
}

runMain(async () => {
  const check = process.argv.includes('--check')
  await bootstrap({ build: false })
  const prettier = ['node_modules/prettier/bin/prettier.cjs', '--log-level=warn']
  const { code } = await run(process.execPath, [...prettier, check ? '--check' : '--write', '.'], {
    cwd: root,
  })
  const sources = listFiles(folders.map((folder) => join(root, folder))).filter((file) =>
    extensions.has(extname(file)),
  )
  const clangCode = sources.length > 0 ? await clangFormat(check, sources) : 0
  if (code !== 0 || clangCode !== 0) {
    if (check) console.error('polylora: npm run format puts the files above in order')
    process.exitCode = 1
  }
})
