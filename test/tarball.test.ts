import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { checkFolder } from '../scripts/check-floors.mjs'
import { temporaryFolder } from './temporary-folder.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const prebuilds = join(root, 'prebuilds/linux-x64')
const hasPrebuilds = existsSync(join(prebuilds, 'polylora.glibc.node'))
const wanted = 'without prebuilds, which npm run prebuilds makes'

interface Pack {
  readonly filename: string
  readonly size: number
  readonly files: readonly { readonly path: string }[]
}

function npm(args: readonly string[], cwd: string): string {
  return execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

function pack(...args: string[]): Pack {
  return (JSON.parse(npm(['pack', '--json', '--ignore-scripts', ...args], root)) as Pack[])[0]
}

/** Runs a module in a folder, as a user's program; it prints one JSON value. */
function run(folder: string, program: string): unknown {
  const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: '' }
  delete env.PREBUILDS_ONLY
  const output = execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: folder,
    encoding: 'utf8',
    env,
  })
  return JSON.parse(output)
}

describe('the published tarball', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  it(`has what lib compiles to, the prebuilt files and three more, in at most 25 MB${hasPrebuilds ? '' : ` (${wanted})`}`, () => {
    const { files, size } = pack('--dry-run')
    const compiled = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts'))
      .flatMap((path) => ['.js', '.js.map', '.d.ts'].map((end) => path.replace(/\.ts$/, end)))
    const built = hasPrebuilds ? readdirSync(prebuilds) : []
    assert.deepEqual(
      files.map(({ path }) => path).sort(),
      [
        ...['LICENSE', 'README.md', 'package.json'],
        ...compiled.map((path) => `dist/${path}`),
        ...built.map((name) => `prebuilds/linux-x64/${name}`),
      ].sort(),
    )
    for (const name of built) assert.match(name, /^polylora(\.glibc\.node|_cuda\.so)$/)
    assert.ok(size <= 25e6, `it has ${size} bytes`)
  })

  it('loads the prebuilt addon where nothing has been built, and says so', () => {
    const folder = at('package')
    const addon = join(folder, 'prebuilds/linux-x64/polylora.glibc.node')
    mkdirSync(dirname(addon), { recursive: true })
    copyFileSync(join(root, 'build/Release/polylora.node'), addon)
    copyFileSync(join(root, 'package.json'), join(folder, 'package.json'))
    cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    const files = run(
      folder,
      `const { backends } = await import('./dist/index.js')
       console.log(JSON.stringify(backends().map(({ kind, file }) => [kind, file])))`,
    ) as [string, string | null][]
    assert.equal(new Map(files).get('cpu'), addon)
  })

  if (!hasPrebuilds) {
    it(`keeps the floors of glibc (skipped: ${wanted})`)
    it(`trains the demo model where it was installed without scripts (skipped: ${wanted})`)
    return
  }

  it('keeps the floors of glibc', () => {
    for (const [name, wrong] of checkFolder(prebuilds)) assert.deepEqual(wrong, [], name)
  })

  if (process.env.POLYLORA_FULL !== '1') {
    it(
      'trains the demo model where it was installed without scripts ' +
        '(skipped: it installs from the registry, with POLYLORA_FULL=1)',
    )
    return
  }

  it('trains the demo model where it was installed without scripts', () => {
    const folder = at('user')
    mkdirSync(folder)
    const { filename } = pack('--pack-destination', folder)
    npm(['install', '--ignore-scripts', '--no-audit', '--no-fund', join(folder, filename)], folder)
    const example = join(root, 'examples/five-disciplines')
    const { files, losses } = run(
      folder,
      `import { backends, lora, Model, train } from 'polylora'
       const losses = []
       const model = await Model.load(${JSON.stringify(join(example, 'models/instruct'))})
       try {
         model.attach(lora({ rank: 16, targets: 'all-linear' }))
         const train_ = [{ path: ${JSON.stringify(join(example, 'data/geography.train.jsonl'))} }]
         const data = { train: train_, chatTemplate: true }
         await train(model, { data, steps: 4, onStep: ({ loss }) => losses.push(loss) })
       } finally {
         await model.dispose()
       }
       console.log(JSON.stringify({ files: backends().map(({ file }) => file), losses }))`,
    ) as { files: (string | null)[]; losses: number[] }
    const installed = join(folder, 'node_modules/polylora/prebuilds/linux-x64/polylora.glibc.node')
    assert.equal(files[0], installed)
    assert.equal(losses.length, 4)
    // An untrained model of this vocabulary would begin at ln 4096 = 8.3; this one knows the subject.
    for (const loss of losses) assert.ok(loss > 0 && loss < 6, `losses ${losses.join()}`)
  })
})
