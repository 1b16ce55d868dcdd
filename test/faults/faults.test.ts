import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isPolyloraError, OutOfMemoryError } from '../../lib/errors.js'
import { loadNative } from '../../lib/native.js'
import { parseTrainConfig } from '../../lib/train/options.js'
import { runTraining } from '../../lib/train/run.js'
import { Random } from '../random.js'
import { memoryFolder, temporaryFolder } from '../temporary-folder.js'
import { resultOf, smallRun, verifyCheckpoints } from './scenarios.js'
import { leftovers } from './sweep.js'

/** `npm run test:faults` does all; `npm test` a slice. */
const full = process.env.POLYLORA_FULL === '1'
const file = (name: string) => fileURLToPath(new URL(name, import.meta.url))
const say = (text: string) => {
  if (full) console.log(`      ${text}`)
}

describe('faults', function () {
  this.timeout(full ? 3 * 3600_000 : 180_000)
  const at = temporaryFolder(memoryFolder())

  it('of every system call: nothing is lost, and the error says what to do', function () {
    const shim = at('shim.so')
    try {
      const flags = ['-O1', '-shared', '-fPIC', '-o', shim, file('./shim.cc'), '-ldl']
      execFileSync('c++', flags, { stdio: 'pipe' })
    } catch (error) {
      console.log(`      skipped: a C++ compiler is needed: ${(error as Error).message}`)
      this.skip()
    }
    mkdirSync(at('sweep'))
    const args = ['--import', 'tsx', file('./sweep-child.ts'), at('sweep'), full ? '1' : '80']
    const output = execFileSync(process.execPath, args, {
      env: { ...process.env, LD_PRELOAD: shim },
      encoding: 'utf8',
    })
    say(output.trimEnd().replaceAll('\n', '\n      '))
    assert.equal(output.trimEnd().split('\n').length, 4)
  })

  it('of every allocation: a typed error, older checkpoints whole, and the same bits afterwards', async () => {
    const native = loadNative()
    const input = (output: string) => smallRun(at(output), at('memory.jsonl'))
    const run = (output: string) => runTraining(parseTrainConfig(input(output)), { resume: true })
    native.injectAllocationFault(0)
    await run('memory-whole')
    const allocations = native.injectAllocationFault(0)
    assert.ok(allocations > 500, `${allocations} allocations`)
    const random = new Random(5)
    let faults = 0
    const stride = full ? 1 : Math.ceil(allocations / 6)
    for (let nth = 1 + random.integer(stride); nth <= allocations; nth += stride) {
      rmSync(at('memory'), { recursive: true, force: true })
      native.injectAllocationFault(nth)
      await assert.rejects(run('memory'), (error) => {
        assert.ok(error instanceof OutOfMemoryError, `allocation ${nth}: ${String(error)}`)
        return true
      })
      native.injectAllocationFault(0)
      assert.deepEqual(leftovers(at('memory')), [])
      await verifyCheckpoints(at('memory'))
      await run('memory')
      assert.deepEqual(resultOf(at('memory')), resultOf(at('memory-whole')), `allocation ${nth}`)
      faults++
    }
    say(`${allocations} allocations of device memory, ${faults} made to fail`)
  })

  it('of the process: killed at random instants, a run ends with the same bits', async () => {
    const kills = full ? 200 : 4
    const config = (output: string, seed: number) =>
      smallRun(at(output), at('killed.jsonl'), { steps: 40, evaluation: { every: 10 }, seed })
    const random = new Random(17)
    let [done, damaged, runs] = [0, 0, 0]
    while (done < kills) {
      const seed = runs++
      const output = `killed-${seed}`
      await runTraining(parseTrainConfig(config(`whole-${seed}`, seed)), {})
      while (done < kills) {
        const child = start(config(output, seed))
        const begin = child.firstStep
        const timer = begin.then((took) =>
          // From the start of the process to some steps after its first.
          setTimeout(() => child.process.kill('SIGKILL'), random.next() * Math.min(took, 500)),
        )
        const early = random.integer(4) === 0
        if (early) setTimeout(() => child.process.kill('SIGKILL'), random.next() * 800)
        const { signal, text } = await child.ended
        clearTimeout(await Promise.race([timer, Promise.resolve(undefined)]))
        damaged += /is damaged/.test(text) ? 1 : 0
        if (signal === null) break
        done++
      }
      await runTraining(parseTrainConfig(config(output, seed)), { resume: true })
      assert.deepEqual(leftovers(at(output)), [])
      assert.deepEqual(resultOf(at(output)), resultOf(at(`whole-${seed}`)))
    }
    assert.equal(damaged, 0, 'a kill left a damaged checkpoint under its final name')
    say(`${done} kills over ${runs} runs`)
  })

  it('of the newest checkpoint, damaged: the one before it leads to the same bits', async () => {
    const config = (output: string) => smallRun(at(output), at('damaged.jsonl'), { steps: 5 })
    await runTraining(parseTrainConfig(config('undamaged')), {})
    const stop = new AbortController()
    const stopped = runTraining(parseTrainConfig(config('damaged')), {
      signal: stop.signal,
      onStep: ({ step }) => {
        if (step === 3) stop.abort()
      },
    })
    await assert.rejects(stopped, { code: 'ERR_POLYLORA_ABORTED' })
    truncateSync(at('damaged/step-3/training.safetensors'), 1000)
    const messages: string[] = []
    await runTraining(parseTrainConfig(config('damaged')), {
      resume: true,
      onMessage: (message) => messages.push(message),
    })
    assert.match(messages.join(), /step-3 is damaged and was passed over: training\.safetensors/)
    assert.deepEqual(resultOf(at('damaged')), resultOf(at('undamaged')))
  })

  it('of two processes on one folder: one runs, the other says who is in its way', async () => {
    const config = smallRun(at('shared'), at('shared.jsonl'), {
      steps: 100,
      evaluation: { every: 50 },
    })
    await runTraining(parseTrainConfig({ ...config, output: at('alone') }), {})
    const first = start(config)
    await first.firstStep
    // So that it is there still when the second comes.
    first.process.kill('SIGSTOP')
    const second = await start(config).ended
    first.process.kill('SIGCONT')
    const { code, text } = await first.ended
    assert.equal(code, 0, text)
    assert.notEqual(second.code, 0)
    assert.match(second.text, /is in use by another process/)
    assert.deepEqual(resultOf(at('shared')), resultOf(at('alone')))
  })

  it('of the disk, full: the run stops, and goes on when there is space', async function () {
    const disk = mkdtempSync(at('disk-'))
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96k', 'tmpfs', disk], { stdio: 'pipe' })
    } catch {
      console.log('      skipped: no tmpfs can be mounted here; the sweep has the effect `full`')
      this.skip()
    }
    try {
      const config = (output: string) => smallRun(output, at('disk.jsonl'), { steps: 4 })
      await runTraining(parseTrainConfig(config(at('roomy'))), {})
      const ballast = join(disk, 'ballast')
      writeFileSync(ballast, Buffer.alloc(64 << 10))
      const output = join(disk, 'run')
      const failure: unknown = await runTraining(parseTrainConfig(config(output)), {}).catch(
        (error: unknown) => error,
      )
      assert.ok(isPolyloraError(failure), String(failure))
      assert.equal(failure.details.error, 'ENOSPC', failure.message)
      assert.match(failure.message, /bytes are available; free some space there, then resume/)
      say(failure.message)
      assert.deepEqual(leftovers(output), [])
      await verifyCheckpoints(output)
      rmSync(ballast)
      execFileSync('mount', ['-o', 'remount,size=8m', disk])
      await runTraining(parseTrainConfig(config(output)), { resume: true })
      assert.deepEqual(resultOf(output), resultOf(at('roomy')))
    } finally {
      execFileSync('umount', [disk])
    }
  })

  /** One training process; `firstStep` resolves with the milliseconds that it took to get there. */
  function start(config: object) {
    const begin = performance.now()
    const script = file('../train/run-child.mjs')
    const child: ChildProcess = spawn(process.execPath, [script, JSON.stringify(config)], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let text = ''
    let stepped: (took: number) => void = () => undefined
    const firstStep = new Promise<number>((resolve) => (stepped = resolve))
    for (const stream of [child.stdout!, child.stderr!])
      stream.on('data', (chunk: Buffer) => {
        text += chunk.toString()
        if (/^step /m.test(text)) stepped(performance.now() - begin)
      })
    const ended = new Promise<{ code: number | null; signal: string | null; text: string }>(
      (resolve, reject) => {
        child.on('error', reject)
        child.on('close', (code, signal) => {
          resolve({ code, signal, text })
          stepped(0)
        })
      },
    )
    return { process: child, firstStep, ended }
  }
})
