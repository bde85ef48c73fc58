import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Asks for a whole answer and for a stream with the JDK's client, of which nothing is set. */
class Client {
    public static void main(String[] arguments) throws Exception {
        var chats = URI.create(arguments[0] + "/chat/completions");
        var client = HttpClient.newHttpClient();
        for (var stream : new boolean[] {false, true}) {
            var body = "{\"model\":\"coder-model\",\"messages\":[],\"stream\":" + stream + "}";
            var request =
                    HttpRequest.newBuilder(chats)
                            .header("Content-Type", "application/json")
                            .POST(BodyPublishers.ofString(body))
                            .build();
            var response = client.send(request, BodyHandlers.ofLines());
            System.out.println(response.statusCode() + " " + response.version());
            response.body().forEach(System.out::println);
        }
    }
}
