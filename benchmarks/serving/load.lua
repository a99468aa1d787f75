-- Requests for wrk: random samples, each for a random variant.
-- args: file with a line "task body" a sample; number of variants (0: global); only this task (or "all")
local headers = {["Content-Type"] = "application/json"}
local samples, variants = {}, 0

function init(args)
  variants = tonumber(args[2])
  for line in io.lines(args[1]) do
    local task, body = line:match("^(%S+) (.*)$")
    if args[3] == "all" or args[3] == task then samples[#samples + 1] = {task, body} end
  end
  math.randomseed(7)
end

function request()
  local sample = samples[math.random(#samples)]
  local path = "/v1/tasks/" .. sample[1] .. ":predict"
  if variants > 0 then path = path .. "?variant=device:phone-" .. math.random(0, variants - 1) end
  return wrk.format("POST", path, headers, sample[2])
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
