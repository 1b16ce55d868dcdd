import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { temporaryFolder } from './temporary-folder.js'

const release = fileURLToPath(new URL('../build/Release', import.meta.url))
const hasDriver = existsSync('/proc/driver/nvidia/version')

/** What a machine says of CUDA that has these files: a driver's library made here stands for the driver. */
describe('the cuda device', function () {
  this.timeout(60_000)
  const at = temporaryFolder()

  /** The reason that the addon gives, where the loader finds `folder` first. */
  function reason(addon: string, folder: string): string {
    const program = `
      const addon = require(${JSON.stringify(addon)})
      const found = addon.backends().find(({ kind }) => kind === 'cuda')
      let thrown = ''
      try { addon.openDevice('cuda', {}) } catch (error) { thrown = error.code + ': ' + error.message }
      console.log(JSON.stringify([found.reason, thrown]))`
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--eval', program], {
      encoding: 'utf8',
      env: { ...process.env, NODE_OPTIONS: '', LD_LIBRARY_PATH: folder },
    })
    assert.equal(status, 0, stderr)
    const [said, thrown] = JSON.parse(stdout) as [string, string]
    assert.equal(thrown, `Device: there is no cuda device here: ${said}`)
    assert.doesNotMatch(said, /\n/)
    return said
  }

  /** A folder with a libcuda.so.1 of this source. */
  function driver(name: string, source: string): string {
    const folder = at(name)
    mkdirSync(folder)
    writeFileSync(join(folder, 'driver.c'), source)
    const args = ['-shared', '-fPIC', '-Wl,-soname,libcuda.so.1', '-o', 'libcuda.so.1', 'driver.c']
    execFileSync('cc', args, { cwd: folder })
    return folder
  }

  const addon = join(release, 'polylora.node')
  if (hasDriver) it('names the driver that is missing (skipped: a driver is here)')
  else
    it('names the driver that is missing, and the one that is needed', () => {
      assert.equal(
        reason(addon, ''),
        'no NVIDIA driver was found (libcuda.so.1); driver R580 or later is needed',
      )
    })

  it('names the library that the package lacks, where there is a driver', () => {
    const folder = driver('alone', 'int nothing;\n')
    const lonely = join(folder, 'polylora.node')
    copyFileSync(addon, lonely)
    assert.match(
      reason(lonely, folder),
      /alone\/polylora_cuda\.so could not be loaded: .*No such file/,
    )
  })

  if (!existsSync(join(release, 'polylora_cuda.so'))) {
    it(
      'refuses a driver that is too old (skipped: polylora_cuda.so was not built, npm run build:cuda)',
    )
    return
  }

  it('survives a libcuda.so.1 that is no driver', () => {
    assert.equal(
      reason(addon, driver('empty', 'int nothing;\n')),
      'no NVIDIA driver is there; driver R580 or later is needed',
    )
  })

  it('refuses a driver that is too old, and names the one that is needed', () => {
    const source = 'int cuDriverGetVersion(int *version) { *version = 12080; return 0; }\n'
    assert.equal(
      reason(addon, driver('old', source)),
      'the NVIDIA driver knows CUDA 12.8; this build needs CUDA 13.0, that is driver R580 or later',
    )
  })
})
