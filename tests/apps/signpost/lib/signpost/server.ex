defmodule Signpost.Server do
  @moduledoc "Answers plain HTTP on $PORT: `/` sends visitors on to `/welcome`."
  use Task

  @greeting "Welcome"

  def start_link(_), do: Task.start_link(__MODULE__, :listen, [])

  def listen do
    port = Application.fetch_env!(:signpost, :port)

    {:ok, socket} =
      :gen_tcp.listen(port, [:binary, packet: :http_bin, active: false, reuseaddr: true, backlog: 1024])

    IO.puts("listening on #{port}")
    accept(socket)
  end

  defp accept(socket) do
    {:ok, client} = :gen_tcp.accept(socket)

    {:ok, pid} =
      Task.Supervisor.start_child(Signpost.Connections, fn ->
        receive do
          :go -> serve(client)
        end
      end)

    :ok = :gen_tcp.controlling_process(client, pid)
    send(pid, :go)
    accept(socket)
  end

  defp serve(client) do
    case :gen_tcp.recv(client, 0, 5_000) do
      {:ok, {:http_request, _method, {:abs_path, path}, _version}} ->
        skip_headers(client)
        :gen_tcp.send(client, answer(path))
        :gen_tcp.close(client)

      _ended_or_not_http ->
        :gen_tcp.close(client)
    end
  end

  defp skip_headers(client) do
    case :gen_tcp.recv(client, 0, 5_000) do
      {:ok, :http_eoh} -> :ok
      {:ok, _header} -> skip_headers(client)
      _ended -> :ok
    end
  end

  defp answer("/"), do: response("302 Found", "see /welcome\n", "Location: /welcome\r\n")
  defp answer("/welcome"), do: response("200 OK", "#{@greeting}, this is #{hostname()}\n")
  # The secret itself never leaves: this shows that it arrived, and that it is one everywhere.
  defp answer("/fingerprint"), do: response("200 OK", fingerprint() <> "\n")
  defp answer(_path), do: response("404 Not Found", "not found\n")

  defp fingerprint do
    secret = Application.fetch_env!(:signpost, :secret_key_base)
    :crypto.hash(:sha256, secret) |> Base.encode16(case: :lower)
  end

  defp hostname do
    {:ok, name} = :inet.gethostname()
    name
  end

  defp response(status, body, headers \\ "") do
    "HTTP/1.1 #{status}\r\nContent-Type: text/plain\r\nContent-Length: #{byte_size(body)}\r\n" <>
      "#{headers}Connection: close\r\n\r\n#{body}"
  end
end
