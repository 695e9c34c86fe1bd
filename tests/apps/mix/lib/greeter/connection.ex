defmodule Greeter.Connection do
  @moduledoc "One HTTP/1.1 connection: requests without a body, answers with a length."

  @idle 60_000
  # While the server stops, a connection on which nothing comes is closed after this long.
  @idle_stopping 5_000
  @slice 200
  @inspect_child "env; for f in /proc/self/fd/*; do readlink $f; done"

  @doc "Serves requests until the client closes, asks for it, or the server stops."
  def serve(socket), do: serve(socket, 0)

  defp serve(socket, waited) do
    # Short reads, so that a stopping server is noticed; a time-out keeps what was read so far.
    case :gen_tcp.recv(socket, 0, @slice) do
      {:ok, {:http_request, _method, {:abs_path, target}, version}} ->
        closes = headers(socket, version != {1, 1})
        {status, body} = answer(URI.parse(target), socket)
        last = closes or Greeter.Listener.stopping?()
        :ok = :gen_tcp.send(socket, response(status, body, last))
        if last, do: close(socket), else: serve(socket, 0)

      {:error, :timeout} ->
        limit = if Greeter.Listener.stopping?(), do: @idle_stopping, else: @idle
        if waited >= limit, do: close(socket), else: serve(socket, waited + @slice)

      _ended_or_not_http ->
        close(socket)
    end
  end

  defp headers(socket, closes) do
    case :gen_tcp.recv(socket, 0, @idle) do
      {:ok, :http_eoh} -> closes
      {:ok, {:http_header, _, :Connection, _, value}} -> headers(socket, String.downcase(value) == "close")
      {:ok, {:http_header, _, _name, _, _value}} -> headers(socket, closes)
      _ended -> true
    end
  end

  defp answer(%URI{path: "/"}, _socket), do: {200, greeting()}
  defp answer(%URI{path: "/health"}, _socket), do: {200, "ok\n"}
  defp answer(%URI{path: "/pid"}, _socket), do: {200, "#{:os.getpid()}\n"}

  defp answer(%URI{path: "/peer"}, socket) do
    case :inet.peername(socket) do
      {:ok, {address, _port}} -> {200, "#{:inet.ntoa(address)}\n"}
      {:error, reason} -> {503, "#{reason}\n"}
    end
  end

  defp answer(%URI{path: "/slow", query: query}, _socket) do
    query
    |> Kernel.||("")
    |> URI.decode_query()
    |> Map.get("ms", "0")
    |> String.to_integer()
    |> Process.sleep()

    {200, greeting()}
  end

  # What a program started from here inherits.
  defp answer(%URI{path: "/child"}, _socket) do
    {output, _status} = System.cmd("sh", ["-c", @inspect_child])
    {200, output}
  end

  defp answer(_target, _socket), do: {404, "not found\n"}

  defp greeting, do: "#{System.get_env("APP_NAME", "app")} #{System.get_env("APP_VERSION", "v0")}\n"

  defp response(status, body, last) do
    reason = %{200 => "OK", 404 => "Not Found", 503 => "Service Unavailable"}[status]
    connection = if last, do: "close", else: "keep-alive"

    [
      "HTTP/1.1 #{status} #{reason}\r\nContent-Type: text/plain\r\nContent-Length: #{byte_size(body)}\r\n",
      "X-Pid: #{:os.getpid()}\r\nConnection: #{connection}\r\n\r\n",
      body
    ]
  end

  # The client first gets the answer and our end; then its own end is awaited, so that no reset overtakes it.
  defp close(socket) do
    :gen_tcp.shutdown(socket, :write)
    :gen_tcp.recv(socket, 0, 1_000)
    :gen_tcp.close(socket)
  end
end
